"""Runs without a home: dispatched by the worker that admitted them, until another worker claims them."""

from __future__ import annotations

from coordinator.testing.conformance.stores.builders import (
    SUCCESS,
    Field,
    StoreCase,
    admitted,
    cancel,
    declared_dead,
    new_worker,
    row_of,
    running,
    waiting,
)
from coordinator.testing.conformance.suite import Check, checks_of
from stores.base import CoordinationStore
from stores.claims import ClaimableQuery, Unclaimed
from stores.rows import ANY_WORKER, Admission, Ownership
from stores.states import Phase


async def workers(store: CoordinationStore) -> tuple[int, int]:
    """One that only admits, and one that executes `agent`."""
    front = await store.register(new_worker(admits_only=True))
    return front, await store.register(new_worker(assistants=("agent",)))


async def dispatched(store: CoordinationStore, front: int, thread: str = "t", **fields: Field) -> Admission:
    known: dict[str, Field] = {"assistant_id": "agent", "portable": True, "dispatched": True}
    return await admitted(store, front, thread, **(known | fields))


async def dispatched_run_does_not_take_the_free_thread(case: StoreCase) -> None:
    store = case.store
    front = await store.register(new_worker(admits_only=True))
    admission = await dispatched(store, front)
    assert (admission.holds, admission.fence) == (False, 0)
    row = await row_of(store, admission.run_id)
    assert (row.phase, row.owner_epoch, row.home_epoch) == (Phase.waiting, None, None)
    assert row.waiting
    assert [step.what for step in await store.transitions(row.run_id)] == ["queued"]
    assert (await store.tick(front)).free_threads == ()
    assert await store.claim("t", epoch=front) is None
    assert await store.claimants("t") == []


async def worker_with_its_assistant_claims_and_executes_it(case: StoreCase) -> None:
    store = case.store
    front, executor = await workers(store)
    stranger = await store.register(new_worker(assistants=("other",)))
    first = await dispatched(store, front)
    second = await dispatched(store, front, multitask_strategy="enqueue")
    assert await store.claimants("t") == [executor]
    assert (await store.tick(executor)).free_threads == ("t",)
    assert (await store.tick(stranger)).free_threads == ()
    assert await store.claim("t", epoch=stranger) is None
    claimed = await store.claim("t", epoch=executor)
    assert claimed is not None
    assert claimed.run_id == first.run_id
    row = await row_of(store, first.run_id)
    assert (row.owner_epoch, row.fence, row.attempt) == (executor, claimed.fence, 1)
    assert (await store.tick(executor)).free_threads == ()
    own = Ownership(first.run_id, "t", executor, claimed.fence)
    assert await store.start(own, {"kind": "values"}) is not None
    assert (await store.finish(own, SUCCESS)).next_home == ANY_WORKER
    claimed = await store.claim("t", epoch=executor)
    assert claimed is not None
    assert claimed.run_id == second.run_id


async def claimants_are_the_live_workers_that_may_claim_for_the_head(case: StoreCase) -> None:
    store, (me, peer) = case.store, await case.workers()
    knows, leaves, other = [
        await store.register(new_worker(assistants=(name,))) for name in ("agent", "agent", "other")
    ]
    await store.drain(leaves)
    own = await running(store, me)
    assert await store.claimants("t") == [], "the queue is empty"
    first = await waiting(store, peer, portable=True, assistant_id="agent")
    behind = await waiting(store, other)
    assert await store.claimants("t") == [], "the thread is held"
    await store.finish(own, SUCCESS)
    assert await store.claimants("t") == [peer], "its home lives"
    await store.drain(peer)
    assert await store.claimants("t") == [knows]
    late = await store.register(new_worker(assistants=("agent", "other")))
    assert await store.claimants("t") == [late, knows], "the newest first"
    await cancel(store, first)
    assert await store.claimants("t") == [other]
    await declared_dead(store, other, by=me)
    assert await store.claimants("t") == [], "it is not portable, and its home is dead"
    await cancel(store, behind)
    assert await store.claimants("t") == []


async def claimable_runs_are_those_of_each_user_in_turn(case: StoreCase) -> None:
    store = case.store
    front, executor = await workers(store)
    for thread, user in (("a1", "a"), ("a2", "a"), ("a3", "a"), ("c1", "c"), ("n1", None), ("b1", "b")):
        await dispatched(store, front, thread, user_id=user)

    async def threads(limit: int = 20, **query: Field) -> list[str]:
        runs = await store.claimable(ClaimableQuery(limit, **query), epoch=executor)
        assert all((run.user_id or "n") == run.thread_id[0] for run in runs)
        assert all(run.assistant_id == "agent" for run in runs)
        return [run.thread_id for run in runs]

    assert await threads() == ["a1", "b1", "c1", "n1", "a2", "a3"]
    assert await threads(after="a") == ["b1", "c1", "n1", "a1", "a2", "a3"]
    assert await threads(after="bb", limit=2) == ["c1", "n1"]
    assert await threads(after="c", limit=5) == ["n1", "a1", "b1", "c1", "a2"]
    assert await threads(full_users=("a", None)) == ["b1", "c1"]
    assert await threads(full_assistants=("other",), limit=1) == ["a1"]
    assert await threads(full_assistants=("other", "agent")) == []
    assert await store.claimable(ClaimableQuery(20), epoch=front) == []
    assert await store.claim("a1", epoch=executor) is not None
    assert await threads() == ["a2", "b1", "c1", "n1", "a3"]
    await store.drain(executor)
    assert await threads() == []


async def claimable_is_what_a_claim_would_take(case: StoreCase) -> None:
    store = case.store
    front, executor = await workers(store)
    home = await store.register(new_worker(assistants=("agent",)))
    own = await running(store, executor, "held")
    await dispatched(store, front, "held", multitask_strategy="enqueue")
    await dispatched(store, front, "delayed", delay_ms=1000)
    first = await dispatched(store, front, "queue")
    await dispatched(store, front, "queue", multitask_strategy="enqueue")
    await running(store, home, "theirs")
    await waiting(store, home, "theirs", assistant_id="agent", portable=True)

    async def threads() -> list[str]:
        return [run.thread_id for run in await store.claimable(ClaimableQuery(20), epoch=executor)]

    assert await threads() == ["queue"]
    claimed = await store.claim("queue", epoch=executor)
    assert claimed is not None
    assert claimed.run_id == first.run_id
    assert await threads() == []
    case.clock.advance(1)
    assert await threads() == ["delayed"]
    await store.finish(own, SUCCESS)
    assert sorted(await threads()) == ["delayed", "held"]
    await store.retire(home)
    assert sorted(await threads()) == ["delayed", "held", "theirs"], "its home is dead"


async def claimable_children_are_those_of_runs_that_the_worker_executes(case: StoreCase) -> None:
    store = case.store
    front, executor = await workers(store)
    other = await store.register(new_worker(assistants=("agent",)))
    mine, theirs = await running(store, executor, "mine"), await running(store, other, "theirs")
    for thread, parent, assistant in (
        ("b", mine, "agent"),
        ("a", mine, "agent"),
        ("of-another", theirs, "agent"),
        ("unknown", mine, "unknown"),
    ):
        await dispatched(store, front, thread, parent_run_id=parent.run_id, assistant_id=assistant)
    await dispatched(store, front, "no-child")
    await dispatched(store, front, "delayed", parent_run_id=mine.run_id, delay_ms=1000)
    await dispatched(store, front, "behind")
    await dispatched(store, front, "behind", parent_run_id=mine.run_id, multitask_strategy="enqueue")

    async def threads(epoch: int, limit: int = 20) -> list[str]:
        runs = await store.claimable_children(limit, epoch=epoch)
        assert all((run.user_id, run.assistant_id) == (None, "agent") for run in runs)
        return [run.thread_id for run in runs]

    assert await threads(executor) == ["b", "a"], "the oldest first"
    assert await threads(executor, limit=1) == ["b"]
    assert await threads(other) == ["of-another"]
    assert await threads(front) == []
    assert await store.claim("b", epoch=other) is not None
    assert await threads(executor) == ["a"]
    await store.drain(executor)
    assert await threads(executor) == []


async def unclaimed_runs_are_counted_by_assistant(case: StoreCase) -> None:
    store = case.store
    front = await store.register(new_worker(admits_only=True))
    assert await store.unclaimed() == []
    first = await dispatched(store, front)
    case.clock.advance(1)
    await dispatched(store, front, "u")
    await dispatched(store, front, "v", assistant_id="other")
    await dispatched(store, front, "w", assistant_id="other", delay_ms=1000)
    since = (await row_of(store, first.run_id)).updated_at
    assert await store.unclaimed() == [
        Unclaimed("agent", 2, since),
        Unclaimed("other", 1, since + 1_000_000),
    ]
    case.clock.advance(1)
    assert [one.runs for one in await store.unclaimed()] == [2, 2], "one was delayed"
    executor = await store.register(new_worker(assistants=("agent",)))
    assert [one.assistant_id for one in await store.unclaimed()] == ["other"]
    await store.drain(executor)
    assert [one.runs for one in await store.unclaimed()] == [2, 2], "a draining worker takes none"


DISPATCH: tuple[Check[StoreCase], ...] = checks_of(
    dispatched_run_does_not_take_the_free_thread,
    worker_with_its_assistant_claims_and_executes_it,
    claimants_are_the_live_workers_that_may_claim_for_the_head,
    claimable_runs_are_those_of_each_user_in_turn,
    claimable_is_what_a_claim_would_take,
    claimable_children_are_those_of_runs_that_the_worker_executes,
    unclaimed_runs_are_counted_by_assistant,
    promise="a run without a home is claimed by a worker that knows its assistant",
)
