"""Rollbacks that have to be tried again, and the removal of a thread: what a holder undoes or removes."""

from __future__ import annotations

from coordinator.testing.conformance.stores.builders import (
    ENDED,
    SUCCESS,
    StoreCase,
    cancel,
    holding,
    row_of,
    running,
    thread_of,
)
from coordinator.testing.conformance.suite import Check, checks_of, refused
from stores.base import CoordinationStore
from stores.errors import StaleFence
from stores.rows import Ownership
from stores.states import CancelAction, RunStatus


async def rolling_back(store: CoordinationStore, epoch: int) -> Ownership:
    """A run whose rollback was decided, with values to restore."""
    await store.finish(await running(store, epoch), SUCCESS._replace(values={"n": 0}))
    own = await running(store, epoch)
    await store.save(own, {"n": 1})
    await cancel(store, own.run_id, CancelAction.rollback)
    return own


async def rollback_that_fails_has_three_attempts_each_with_a_newer_fence(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    own = await rolling_back(store, me)
    for attempt in (2, 3):
        again = await store.readopt(own)
        assert again is not None
        assert again == own._replace(fence=own.fence + 1)
        assert (await row_of(store, own.run_id)).rollback_state == f"tried {attempt}"
        with refused(StaleFence):
            await store.restore(own)
        own = again
    assert await store.readopt(own) is None
    assert await store.restore(own) == {"n": 0}, "its fence is still valid"


async def repeated_readopt_returns_the_same_attempt(case: StoreCase) -> None:
    """The first answer was lost. The repeated call must not use up another attempt."""
    store, (me, peer) = case.store, await case.workers()
    own = await rolling_back(store, me)
    second = await store.readopt(own)
    assert second is not None
    assert await store.readopt(own) == second
    third = await store.readopt(second)
    assert third is not None
    assert await store.readopt(second) == third
    assert (await row_of(store, own.run_id)).rollback_state == "tried 3"
    assert await store.readopt(own._replace(epoch=peer)) is None
    await store.settle(third, ENDED, "failed")
    assert await store.readopt(second) is None


async def thread_is_deleted_by_the_operation_that_holds_it(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    old = await running(store, me)
    await store.finish(old, SUCCESS)
    own = await holding(store, me, kind="op")
    for _ in range(2):
        await store.delete_thread(own)
    assert await store.thread("t") is None
    assert await store.row(old.run_id) is None
    assert await store.transitions(old.run_id) == []
    assert (await row_of(store, own.run_id)).status is RunStatus.success
    assert (await holding(store, me)).thread_id == "t"


async def cancelled_operation_deletes_nothing(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    own = await holding(store, me, kind="op")
    await cancel(store, own.run_id)
    with refused(StaleFence):
        await store.delete_thread(own)
    assert await thread_of(store)


ROLLBACKS: tuple[Check[StoreCase], ...] = (
    *checks_of(
        rollback_that_fails_has_three_attempts_each_with_a_newer_fence,
        repeated_readopt_returns_the_same_attempt,
        promise="a rollback restores the thread's values",
    ),
    *checks_of(
        thread_is_deleted_by_the_operation_that_holds_it,
        cancelled_operation_deletes_nothing,
        promise="a thread is removed with all that is on it, by the operation that holds it",
    ),
)
