"""The former states of a thread, kept in the rows of the runs that wrote them."""

from __future__ import annotations

from coordinator.testing.conformance.stores.builders import (
    ENDED,
    SUCCESS,
    Field,
    StoreCase,
    cancel,
    running,
)
from coordinator.testing.conformance.suite import Check, checks_of, refused
from stores.base import CoordinationStore
from stores.errors import StaleFence
from stores.rows import Outcome, Ownership
from stores.states import CancelAction, RunStatus


async def returned(store: CoordinationStore, me: int, values: Field, **outcome: Field) -> Ownership:
    own = await running(store, me)
    await store.finish(own, SUCCESS._replace(values=values, result=values, **outcome))
    return own


async def states(store: CoordinationStore, **which: Field) -> list[tuple[str, Field, bool]]:
    return [(row.run_id, row.values, row.current) for row in await store.checkpoints("t", **which)]


async def run_that_wrote_values_has_left_a_checkpoint(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    assert await store.checkpoints("t") == []
    first = await returned(store, me, {"n": 1})
    await store.finish(await running(store, me), SUCCESS._replace(result="nothing for the thread"))
    await store.finish(await running(store, me), Outcome(RunStatus.error, "no"))
    second = await returned(store, me, {"n": 2})
    saves = await running(store, me)
    await store.save(saves, {"n": 3})
    await store.save(saves, {"n": 4})
    assert await states(store, limit=1) == [(saves.run_id, {"n": 4}, True)], "as far as it has come"
    await store.finish(saves, SUCCESS._replace(result="another"))
    assert await states(store) == [
        (saves.run_id, {"n": 4}, True),
        (second.run_id, {"n": 2}, False),
        (first.run_id, {"n": 1}, False),
    ]
    assert [row.previous for row in await store.checkpoints("t")] == [second.run_id, first.run_id, None]
    assert [row.fence for row in await store.checkpoints("t")] == [5, 4, 1]
    assert await states(store, before=second.run_id) == [(first.run_id, {"n": 1}, False)]
    assert await states(store, run_id=second.run_id) == [(second.run_id, {"n": 2}, False)]
    assert await states(store, before="unknown") == await states(store, run_id="unknown") == []
    assert await store.checkpoints("another", run_id=second.run_id) == []
    assert len(await states(store, limit=2)) == 2


async def run_that_is_rolled_back_leaves_no_checkpoint(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    first = await returned(store, me, {"n": 1})
    undone = await running(store, me)
    await store.save(undone, {"n": 2})
    await cancel(store, undone.run_id, CancelAction.rollback)
    assert await states(store) == [(first.run_id, {"n": 1}, False)], "it is about to be undone"
    await store.settle(undone, ENDED._replace(values=await store.restore(undone)), "done")
    assert await states(store) == [(first.run_id, {"n": 1}, True)]


async def checkpoints_are_removed_with_their_runs(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    first, second, third = [await returned(store, me, {"n": number}) for number in (1, 2, 3)]
    await store.delete_run(second.run_id, thread_id=None, user_id=None)
    assert [(row.run_id, row.previous) for row in await store.checkpoints("t")] == [
        (third.run_id, first.run_id),
        (first.run_id, None),
    ]
    await store.delete_run(third.run_id, thread_id=None, user_id=None)
    assert await states(store) == [(first.run_id, {"n": 1}, False)], "no row has the values of the thread"


async def latest_checkpoint_alone_is_kept(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    await returned(store, me, {"n": 1})
    saves = await running(store, me)
    await store.save(saves, {"n": 2})
    await store.finish(saves, SUCCESS)
    last = await returned(store, me, {"n": 3})
    elsewhere = await running(store, me, thread_id="u")
    await store.finish(elsewhere, SUCCESS._replace(values={"n": 9}, result={"n": 9}))
    holder = await running(store, me, kind="op")
    for _ in range(2):
        await store.keep_latest_checkpoint(holder)
        assert await states(store) == [(last.run_id, {"n": 3}, True)]
    [kept] = await store.checkpoints("t")
    assert (kept.previous, kept.base_removed) == (None, True)
    with refused(StaleFence):
        await store.keep_latest_checkpoint(holder._replace(fence=holder.fence - 1))
    await store.finish(holder, SUCCESS)
    with refused(StaleFence):
        await store.keep_latest_checkpoint(holder)
    following = await returned(store, me, {"n": 4})
    assert [(row.run_id, row.base_removed) for row in await store.checkpoints("t")] == [
        (following.run_id, False),
        (last.run_id, True),
    ]
    assert len(await store.checkpoints("u")) == 1, "of another thread"


CHECKPOINTS: tuple[Check[StoreCase], ...] = checks_of(
    run_that_wrote_values_has_left_a_checkpoint,
    run_that_is_rolled_back_leaves_no_checkpoint,
    checkpoints_are_removed_with_their_runs,
    latest_checkpoint_alone_is_kept,
    promise="a thread's history has the state that each of its runs left",
)
