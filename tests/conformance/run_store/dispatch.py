"""A run that is dispatched waits without a home, until a worker that knows its assistant claims it."""

from __future__ import annotations

import pytest

from coordinator.testing.conformance.stores.dispatch import dispatched
from stores.base import CoordinationStore
from stores.claims import UNCLAIMED
from stores.errors import ConflictError
from stores.rows import Outcome, Ownership
from stores.states import RunStatus
from tests.conformance.run_store.case import StoreCase
from tests.support.builders import (
    SUCCESS,
    StoreClock,
    cancel,
    fence_epoch,
    new_worker,
    row_of,
    running,
    worker_row,
)


class Dispatch(StoreCase):
    @pytest.fixture
    async def front(self, store: CoordinationStore) -> int:
        """A worker that only admits."""
        return await store.register(new_worker(admits_only=True))

    @pytest.fixture
    async def executor(self, store: CoordinationStore) -> int:
        return await store.register(new_worker(assistants=("agent",)))

    async def test_worker_that_only_admits_is_listed_as_such(
        self, store: CoordinationStore, front: int, executor: int
    ) -> None:
        assert (await worker_row(store, front)).admits_only
        assert not (await worker_row(store, executor)).admits_only

    async def test_strategies_hold_for_dispatched_runs(
        self, store: CoordinationStore, front: int, executor: int
    ) -> None:
        waiting = await dispatched(store, front)
        with pytest.raises(ConflictError):
            await dispatched(store, front)
        new = await dispatched(store, front, multitask_strategy="interrupt")
        assert [decision.run_id for decision in new.replaced] == [waiting.run_id]
        assert (await row_of(store, waiting.run_id)).status is RunStatus.interrupted
        own = await running(store, executor, "u")
        behind = await dispatched(store, front, "u", multitask_strategy="rollback")
        assert [decision.run_id for decision in behind.replaced] == [own.run_id]
        assert not (await row_of(store, own.run_id)).settled, "its task has to stop first"
        assert await store.claim("u", epoch=executor) is None
        await store.finish(own, Outcome(RunStatus.interrupted))
        await store.settle(own, SUCCESS, "done")
        claimed = await store.claim("u", epoch=executor)
        assert claimed is not None
        assert claimed.run_id == behind.run_id

    async def test_death_of_the_worker_that_admitted_it_changes_nothing(
        self, store: CoordinationStore, front: int, executor: int
    ) -> None:
        run = await dispatched(store, front)
        await store.retire(front)
        assert await store.sweep(by=executor, error="dead") == []
        assert (await row_of(store, run.run_id)).waiting
        claimed = await store.claim("t", epoch=executor)
        assert claimed is not None
        assert claimed.run_id == run.run_id

    async def test_dispatched_run_is_cancelled_while_it_waits(
        self, store: CoordinationStore, front: int
    ) -> None:
        run = await dispatched(store, front)
        decision = await cancel(store, run.run_id)
        assert (decision.won, decision.settled) == (True, True)

    async def test_queue_deadline_of_a_dispatched_run_runs(
        self, store: CoordinationStore, front: int, executor: int, clock: StoreClock
    ) -> None:
        run = await dispatched(store, front, queue_timeout_ms=1000)
        clock.advance(1)
        assert [one.run_id for one in (await store.tick(executor)).overdue] == [run.run_id]

    async def test_delayed_dispatched_run_is_claimed_when_due(
        self, store: CoordinationStore, front: int, executor: int, clock: StoreClock
    ) -> None:
        run = await dispatched(store, front, delay_ms=1000)
        assert [step.what for step in await store.transitions(run.run_id)] == ["delayed"]
        assert (await store.tick(executor)).free_threads == ()
        clock.advance(1)
        assert (await store.tick(executor)).free_threads == ("t",)
        claimed = await store.claim("t", epoch=executor)
        assert claimed is not None
        assert claimed.run_id == run.run_id

    async def test_oldest_dispatched_runs_come_first(
        self, store: CoordinationStore, front: int, executor: int
    ) -> None:
        threads = [f"t{number}" for number in (5, 1, 4, 2)]
        for thread in threads:
            await dispatched(store, front, thread)
        assert (await store.tick(executor)).free_threads == tuple(threads)

    async def test_admission_that_is_repeated_returns_the_dispatched_run(
        self, store: CoordinationStore, front: int
    ) -> None:
        first = await dispatched(store, front, idempotency_key="k", request_hash="h")
        again = await dispatched(store, front, idempotency_key="k", request_hash="h")
        assert again.run_id == first.run_id
        assert again.existing is not None

    async def test_error_of_an_unclaimed_run_states_that_no_worker_has_executed_it(
        self, store: CoordinationStore, front: int, executor: int, clock: StoreClock
    ) -> None:
        run = await dispatched(store, front)
        own = await running(store, executor, "u")
        await fence_epoch(store, executor, by=front)
        clock.advance(601)
        ended = {orphan.run_id for orphan in await store.sweep(by=front, error="its worker is dead")}
        assert ended == {run.run_id, own.run_id}
        assert (await row_of(store, run.run_id)).error == UNCLAIMED
        assert (await row_of(store, own.run_id)).error == "its worker is dead"

    async def test_claimed_run_that_has_not_begun_is_continued_by_another_worker(
        self, store: CoordinationStore, front: int, executor: int
    ) -> None:
        other = await store.register(new_worker(assistants=("agent",)))
        run = await dispatched(store, front)
        claimed = await store.claim("t", epoch=executor)
        assert claimed is not None
        await fence_epoch(store, executor, by=front)
        assert await store.sweep(by=front, error="dead") == [], "the front executes none"
        (orphan,) = await store.sweep(by=other, error="dead")
        assert orphan.adopted is not None
        assert (orphan.run_id, orphan.attempt, orphan.adopted.epoch) == (run.run_id, 1, other)
        assert orphan.adopted.fence > claimed.fence
        late = Ownership(run.run_id, "t", executor, claimed.fence)
        assert await store.start(late, {"kind": "values"}) is None, "its first worker has lost it"
        assert await store.start(orphan.adopted, {"kind": "values"}) is not None
        await fence_epoch(store, other, by=front)
        ended = await store.sweep(by=front, error="dead")
        assert [one.run_id for one in ended] == [run.run_id], "it has begun, and has no retries"
        assert (await row_of(store, run.run_id)).error == "dead"
