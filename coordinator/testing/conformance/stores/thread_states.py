"""State outside of the store: what a removed thread leaves to be removed, and how often that is tried."""

from __future__ import annotations

from coordinator.testing.conformance.stores.builders import (
    SUCCESS,
    StoreCase,
    declared_dead,
    holding,
    running,
    waiting,
)
from coordinator.testing.conformance.suite import Check, checks_of, refused
from stores.base import CoordinationStore
from stores.errors import StaleFence
from stores.rows import Ownership
from stores.thread_states import RemovedState, ThreadStatesStore

KEPT = 5_000  # ms


async def ran(store: CoordinationStore, epoch: int, kind: str, thread_id: str = "t") -> Ownership:
    """A run on a temporary thread, which is over."""
    own = await holding(store, epoch, thread_id, temporary_ms=KEPT)
    await store.start(own, {"kind": kind})
    await store.finish(own, SUCCESS)
    return own


async def removed(case: StoreCase) -> None:
    case.clock.advance(KEPT / 1000)
    assert await case.store.expire_threads(limit=10)


async def expired_thread_leaves_its_state_of_each_kind(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    if not isinstance(store, ThreadStatesStore):
        return
    for kind in ("graph", "values", "other"):
        await ran(store, me, kind)
    own = await ran(store, me, "graph")
    assert await store.claim_removed_states(["graph", "other"], limit=10) == []
    assert await store.removed_state("t", "graph") is None
    await removed(case)
    graph = RemovedState("t", "graph", own.fence)
    assert await store.removed_state("t", "graph") == graph
    assert await store.removed_state("t", "values") is None, "it was removed with the thread"
    assert await store.claim_removed_states(["graph", "values"], limit=10) == [graph._replace(attempts=1)]
    await store.forget_removed_states([graph])
    assert await store.removed_state("t", "graph") is None
    assert await store.removed_state("t", "other") == RemovedState("t", "other", own.fence)


async def deleted_thread_leaves_its_state(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    if not isinstance(store, ThreadStatesStore):
        return
    await ran(store, me, "graph")
    operation = await holding(store, me, kind="op")
    queued = await waiting(store, me)
    await store.delete_thread(operation)
    await store.delete_thread(operation)
    assert await store.removed_state("t", "graph") == RemovedState("t", "graph", operation.fence)
    assert await store.row(queued), "it keeps the thread, which is empty"


async def removal_is_tried_again_less_and_less_often(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    if not isinstance(store, ThreadStatesStore):
        return
    await ran(store, me, "graph")
    await removed(case)
    for attempt, pause in enumerate([30, 60, 120, 240, 480, 960, 1920, 3840, 3840, 3840], 1):
        (state,) = await store.claim_removed_states(["graph"], limit=10)
        assert state.attempts == attempt
        case.clock.advance(pause - 1)
        assert await store.claim_removed_states(["graph"], limit=10) == []
        assert await store.removed_state("t", "graph") == state
        case.clock.advance(1)


async def claims_are_bounded_and_take_the_longest_due_first(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    if not isinstance(store, ThreadStatesStore):
        return
    for thread_id in ("b", "a", "c"):
        await ran(store, me, "graph", thread_id)
        await removed(case)
    claimed = [await store.claim_removed_states(["graph"], limit=2) for _ in range(3)]
    assert [{state.thread_id for state in states} for states in claimed] == [{"b", "a"}, {"c"}, set()]


async def thread_that_is_made_again_keeps_its_own_state(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    if not isinstance(store, ThreadStatesStore):
        return
    await ran(store, me, "graph")
    await removed(case)
    (old,) = await store.claim_removed_states(["graph"], limit=10)
    await store.forget_removed_states([old])
    new = await ran(store, me, "graph")
    assert new.fence > old.fence
    await store.forget_removed_states([old])
    assert await store.removed_state("t", "graph") is None
    await removed(case)
    await store.forget_removed_states([old])
    assert await store.removed_state("t", "graph") == RemovedState("t", "graph", new.fence)


async def owner_notes_further_kinds(case: StoreCase) -> None:
    store, (me, peer) = case.store, await case.workers()
    if not isinstance(store, ThreadStatesStore):
        return
    own = await holding(store, me, temporary_ms=KEPT)
    for _ in range(2):
        await store.note_states(own, ["graph", "values", "other"])
    for stale in (own._replace(fence=own.fence + 1), own._replace(epoch=peer)):
        with refused(StaleFence):
            await store.note_states(stale, ["third"])
    await store.finish(own, SUCCESS)
    with refused(StaleFence):
        await store.note_states(own, ["third"])
    await removed(case)
    claimed = await store.claim_removed_states(["graph", "values", "other", "third"], limit=10)
    assert [state.kind for state in claimed] == ["graph", "other"]


async def start_that_is_refused_notes_no_state(case: StoreCase) -> None:
    store, (me, peer) = case.store, await case.workers()
    if not isinstance(store, ThreadStatesStore):
        return
    own = await running(store, me, temporary_ms=KEPT)
    assert await store.start(own._replace(epoch=peer), {"kind": "graph"}) is None
    assert await store.start(own, {"kind": "graph"}), "it has started before, with other state"
    await store.finish(own, SUCCESS)
    await removed(case)
    assert await store.removed_state("t", "graph") is None


async def orphan_names_the_storage_that_has_its_undo_data(case: StoreCase) -> None:
    store, (me, peer) = case.store, await case.workers()
    if not isinstance(store, ThreadStatesStore):
        return
    refs = {"graph": {"kind": "graph", "head": 1}, "values": {"kind": "values"}, "none": None}
    for thread_id, ref in refs.items():
        await store.start(await holding(store, peer, thread_id), ref)
    await declared_dead(store, peer, by=me)
    ended = await store.sweep(by=me, error="dead")
    assert {orphan.thread_id: orphan.rollback_ref for orphan in ended} == {
        "graph": refs["graph"],
        "values": None,
        "none": None,
    }


THREAD_STATES: tuple[Check[StoreCase], ...] = checks_of(
    expired_thread_leaves_its_state_of_each_kind,
    deleted_thread_leaves_its_state,
    removal_is_tried_again_less_and_less_often,
    claims_are_bounded_and_take_the_longest_due_first,
    thread_that_is_made_again_keeps_its_own_state,
    owner_notes_further_kinds,
    start_that_is_refused_notes_no_state,
    orphan_names_the_storage_that_has_its_undo_data,
    promise="state of a removed thread outside of the store is kept in an outbox until it is removed, too",
)
