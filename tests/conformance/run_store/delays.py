"""Delayed runs: they block no other run until they are due, and join the queue then."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.testing.conformance.stores.queues import delayed
from stores.base import CoordinationStore
from stores.errors import ConflictError, QueueFull, RunNotFound
from stores.rows import Admission, Claimed, Limits, Overdue, Ownership
from stores.states import Cause
from tests.conformance.run_store.case import StoreCase
from tests.support.builders import (
    SUCCESS,
    StoreClock,
    admitted,
    cancel,
    fence_epoch,
    holding,
    new_run,
    new_worker,
    row_of,
    running,
    sql_of,
    waiting,
)


class Delays(StoreCase):
    async def test_run_admitted_before_the_due_time_passes_it(
        self, store: CoordinationStore, clock: StoreClock, me: int
    ) -> None:
        run_id = await delayed(store, me)
        own = await self.passed(store, me)
        second = await waiting(store, me)
        finish = await store.finish(own, SUCCESS)
        assert finish.next_home == me
        claimed = await store.claim("t", epoch=me)
        assert claimed is not None
        assert claimed.run_id == second
        clock.advance(10)
        third = await waiting(store, me)
        assert await store.waiting_line("t") == [run_id, third], "its place is that of its due time"

    async def passed(self, store: CoordinationStore, me: int) -> Ownership:
        admission: Admission = await admitted(store, me, multitask_strategy="enqueue")
        assert admission.holds
        own = Ownership(admission.run_id, "t", me, admission.fence)
        assert await store.start(own, None) is not None
        return own

    async def test_the_tick_of_its_home_queues_it_once_on_a_busy_thread(
        self, store: CoordinationStore, clock: StoreClock, me: int, peer: int
    ) -> None:
        await running(store, me)
        await delayed(store, me)
        clock.advance(10)
        assert (await store.tick(peer)).free_threads == ()
        assert (await store.tick(me)).free_threads == ("t",)
        assert await store.claim("t", epoch=me) is None
        assert (await store.tick(me)).free_threads == ()

    async def test_due_run_is_queued_by_an_operation_on_its_own_thread_alone(
        self, store: CoordinationStore, clock: StoreClock, me: int
    ) -> None:
        first, second = await delayed(store, me), await delayed(store, me, thread_id="u")
        clock.advance(10)
        before = await row_of(store, second)
        assert await store.claim("t", epoch=me) == Claimed(first, 1)
        assert await row_of(store, second) == before
        assert (await row_of(store, first)).seq == 2
        assert await store.claim("u", epoch=me) == Claimed(second, 1)

    @pytest.mark.parametrize("strategy", ["interrupt", "rollback"])
    async def test_replacing_run_replaces_delayed_runs(
        self, store: CoordinationStore, clock: StoreClock, me: int, strategy: str
    ) -> None:
        run_id = await delayed(store, me)
        admission = await admitted(store, me, multitask_strategy=strategy)
        assert admission.holds
        assert [decision.run_id for decision in admission.replaced] == [run_id]
        clock.advance(10)
        assert (await store.tick(me)).free_threads == ()
        assert (await row_of(store, run_id)).settled

    @pytest.mark.parametrize(
        ("fields", "refusal"),
        [
            ({"multitask_strategy": "reject", "delay_ms": 1000}, ConflictError),
            ({"multitask_strategy": "reject"}, ConflictError),
            ({"multitask_strategy": "enqueue"}, QueueFull),
            ({"multitask_strategy": "interrupt", "parent_run_id": "unknown"}, RunNotFound),
        ],
    )
    async def test_a_refusal_leaves_it_where_it_was(
        self,
        store: CoordinationStore,
        clock: StoreClock,
        me: int,
        fields: dict[str, Any],
        refusal: type[Exception],
    ) -> None:
        """Although the delayed run is due: a refused admission writes nothing."""
        run_id = await delayed(store, me)
        before = await row_of(store, run_id)
        clock.advance(11)
        with pytest.raises(refusal):
            await store.admit(new_run("t", **fields), epoch=me, limits=Limits(per_thread=1))
        assert await row_of(store, run_id) == before

    @pytest.mark.parametrize("strategy", ["interrupt", "rollback"])
    async def test_its_own_strategy_is_of_the_moment_of_its_request(
        self, store: CoordinationStore, clock: StoreClock, me: int, strategy: str
    ) -> None:
        own = await running(store, me)
        run_id = await delayed(store, me, multitask_strategy=strategy)
        assert (await row_of(store, own.run_id)).cancel_action == strategy
        if strategy == "rollback":
            await store.settle(own, SUCCESS, "done")
        else:
            await store.finish(own, SUCCESS)
        later = await self.passed(store, me)
        clock.advance(10)
        assert await store.claim("t", epoch=me) is None
        assert (await row_of(store, later.run_id)).open, "it waits for who came meanwhile"
        assert await store.waiting_line("t") == [run_id]

    async def test_its_own_reject_is_of_the_moment_of_its_request(
        self, store: CoordinationStore, clock: StoreClock, me: int
    ) -> None:
        run_id = await delayed(store, me, multitask_strategy="reject")
        with pytest.raises(ConflictError):
            await delayed(store, me, multitask_strategy="reject")
        await self.passed(store, me)
        clock.advance(10)
        await store.claim("t", epoch=me)
        assert await store.waiting_line("t") == [run_id]

    async def test_a_cancel_settles_it_at_once(
        self, store: CoordinationStore, clock: StoreClock, me: int, peer: int
    ) -> None:
        run_id = await delayed(store, me)
        decision = await cancel(store, run_id)
        assert (decision.won, decision.settled) == (True, True)
        clock.advance(10)
        assert (await store.tick(me)).free_threads == ()
        assert await store.claim("t", epoch=me) is None
        assert (await holding(store, peer)).fence == 1

    async def test_an_admission_taken_back(self, store: CoordinationStore, me: int) -> None:
        run_id = await delayed(store, me)
        decision = await store.withdraw(run_id, epoch=me)
        assert decision is not None
        assert decision.settled

    async def test_repeated_admission_keeps_the_due_time(
        self, store: CoordinationStore, clock: StoreClock, me: int
    ) -> None:
        run = new_run(multitask_strategy="enqueue", delay_ms=10_000)
        first = await store.admit(run, epoch=me, limits=Limits())
        clock.advance(5)
        again = await store.admit(run, epoch=me, limits=Limits())
        assert again.existing is not None
        assert (again.run_id, again.existing.not_before) == (first.run_id, clock.micros + 5_000_000)

    async def test_a_dead_home(self, store: CoordinationStore, clock: StoreClock, me: int, peer: int) -> None:
        """A worker with the assistant claims a due portable run. Other delayed runs end with their home."""
        knows = await store.register(new_worker(assistants=("agent",)))
        portable = await delayed(store, peer, portable=True, assistant_id="agent")
        over = await delayed(store, peer)
        await fence_epoch(store, peer, by=me)
        assert [orphan.run_id for orphan in await store.sweep(by=me, error="gone")] == [over]
        assert (await store.tick(knows)).free_threads == ()
        clock.advance(10)
        assert (await store.tick(me)).free_threads == ()
        assert (await store.tick(knows)).free_threads == ("t",)
        assert await store.claim("t", epoch=me) is None, (
            "it is queued, and waits for a worker with its assistant"
        )
        assert (await store.tick(knows)).free_threads == ("t",)
        assert await store.claim("t", epoch=knows) == Claimed(portable, 1)

    async def test_a_deployment_may_be_down_for_longer_than_the_delay(
        self, store: CoordinationStore, clock: StoreClock, me: int, peer: int
    ) -> None:
        run_id = await delayed(store, peer, 86_400, portable=True, assistant_id="agent")
        await fence_epoch(store, peer, by=me)
        clock.advance(86_400)
        assert await store.sweep(by=me, error="gone") == [], "a worker with its assistant may still start"
        clock.advance(3600)
        assert [orphan.run_id for orphan in await store.sweep(by=me, error="gone")] == [run_id]

    async def test_a_drain_hands_it_over(
        self, store: CoordinationStore, clock: StoreClock, me: int, peer: int
    ) -> None:
        knows = await store.register(new_worker(assistants=("agent",)))
        run_id = await delayed(store, peer, portable=True, assistant_id="agent")
        assert [run.run_id for run in await store.drain(peer)] == [run_id]
        assert (await row_of(store, run_id)).delayed
        clock.advance(10)
        assert await store.claim("t", epoch=knows) == Claimed(run_id, 1)

    async def test_its_queue_time_begins_when_it_is_due(
        self, store: CoordinationStore, clock: StoreClock, me: int
    ) -> None:
        await running(store, me)
        run_id = await delayed(store, me, queue_timeout_ms=2_000)
        clock.advance(11)
        assert (await store.tick(me)).overdue == ()
        clock.advance(1)
        assert (await store.tick(me)).overdue == (Overdue(run_id, Cause.queue_timeout),)

    async def test_it_counts_as_waiting(self, store: CoordinationStore, me: int) -> None:
        limits = Limits(per_thread=2, per_user=3)

        async def admit(thread: str, strategy: str = "enqueue") -> Admission:
            run = new_run(thread, user_id="u", multitask_strategy=strategy, delay_ms=1000)
            return await store.admit(run, epoch=me, limits=limits)

        await admit("a")
        await admit("a")
        with pytest.raises(QueueFull):
            await admit("a")
        await admit("b")
        with pytest.raises(QueueFull):
            await admit("c", "reject")
        await admit("a", "interrupt")
        assert (await store.thread("c")) is None

    async def test_delayed_run_cannot_be_set_to_running(self, store: CoordinationStore, me: int) -> None:
        run_id = await delayed(store, me)
        assert await store.update_status(run_id, "running") is False
        assert (await row_of(store, run_id)).delayed

    async def test_an_imported_run_passes_it(
        self, store: CoordinationStore, clock: StoreClock, me: int
    ) -> None:
        await delayed(store, me)
        assert (await store.insert(new_run(), epoch=me)).holds
        await delayed(store, me, thread_id="u")
        clock.advance(10)
        assert not (await store.insert(new_run("u"), epoch=me)).holds

    async def test_a_tick_reads_a_batch(self, store: CoordinationStore, clock: StoreClock, me: int) -> None:
        threads = {await delayed(store, me, thread_id=f"t{number}"): f"t{number}" for number in range(103)}
        clock.advance(10)
        free = (await store.tick(me)).free_threads
        assert sorted(free) == sorted(threads[run_id] for run_id in sorted(threads)[:100])

    async def test_rows_of_before_are_not_delayed(self, store: CoordinationStore, me: int) -> None:
        await running(store, me)
        run_id = await waiting(store, me)
        assert sql_of(store)("SELECT not_before FROM runs WHERE run_id = ?", run_id) == [(None,)]
        assert not (await row_of(store, run_id)).delayed
