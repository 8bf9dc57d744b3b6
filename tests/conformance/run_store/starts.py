"""A run that starts in the transaction in which it takes its thread: at admission, or when the run before it
finishes. An engine may leave such a start to the caller; these engines do not."""

from __future__ import annotations

from typing import Any

from stores.base import CoordinationStore
from stores.rows import Admission, Claimed, Limits, NextStart, Ownership
from stores.states import RunStatus
from tests.conformance.run_store.case import StoreCase
from tests.support.builders import (
    ENDED,
    SUCCESS,
    StoreClock,
    cancel,
    fence_epoch,
    new_run,
    row_of,
    running,
    waiting,
)

REF = {"kind": "values"}


async def admitted_to_start(store: CoordinationStore, epoch: int, **fields: Any) -> Admission:
    request = new_run(**fields)._replace(start_ref=REF)
    return await store.admit(request, epoch=epoch, limits=Limits())


class Starts(StoreCase):
    async def test_run_that_takes_its_thread_starts_with_its_admission(
        self, store: CoordinationStore, me: int
    ) -> None:
        first = await running(store, me)
        await store.save(first, {"n": 1})
        await store.finish(first, SUCCESS)
        admission = await admitted_to_start(store, me, timeout_ms=5000)
        assert admission.started is not None
        assert admission.started.decision.status is RunStatus.running
        assert admission.started.values == {"n": 1}
        row = await row_of(store, admission.run_id)
        assert (row.status, row.rollback_ref) == (RunStatus.running, REF)
        assert row.started_at is not None
        assert row.deadline_at == row.started_at + 5_000_000
        history = [
            (step.what, step.from_status, step.to_status) for step in await store.transitions(row.run_id)
        ]
        assert history == [("admitted", None, "pending"), ("started", "pending", "running")]

    async def test_run_that_waits_does_not_start(self, store: CoordinationStore, me: int) -> None:
        await running(store, me)
        admission = await admitted_to_start(store, me, multitask_strategy="enqueue")
        assert not admission.holds
        assert admission.started is None
        assert (await row_of(store, admission.run_id)).status is RunStatus.pending

    async def test_start_after_a_lost_answer_of_the_admission_returns_the_same(
        self, store: CoordinationStore, me: int
    ) -> None:
        request = new_run()._replace(start_ref=REF)
        admission = await store.admit(request, epoch=me, limits=Limits())
        again = await store.admit(request, epoch=me, limits=Limits())
        assert (again.run_id, again.fence) == (admission.run_id, admission.fence)
        own = Ownership(request.run_id, "t", me, admission.fence)
        started = await store.start(own, REF)
        assert started is not None
        assert admission.started is not None
        assert started.decision.status is admission.started.decision.status is RunStatus.running
        assert started.values == admission.started.values

    async def test_withdrawal_ends_a_run_that_started_with_its_admission(
        self, store: CoordinationStore, me: int
    ) -> None:
        admission = await admitted_to_start(store, me)
        decision = await store.withdraw(admission.run_id, epoch=me)
        assert decision is not None
        assert (decision.status, decision.settled) == (RunStatus.interrupted, True)

    async def test_withdrawal_frees_the_thread_of_a_started_run_that_was_replaced(
        self, store: CoordinationStore, me: int
    ) -> None:
        admission = await admitted_to_start(store, me)
        replacing = new_run(multitask_strategy="interrupt")
        assert not (await store.admit(replacing, epoch=me, limits=Limits())).holds
        decision = await store.withdraw(admission.run_id, epoch=me)
        assert decision is not None
        assert decision.settled
        assert await store.claim("t", epoch=me) == Claimed(replacing.run_id, admission.fence + 1)

    async def test_withdrawal_of_a_run_to_be_rolled_back_has_nothing_to_undo(
        self, store: CoordinationStore, me: int
    ) -> None:
        admission = await admitted_to_start(store, me)
        await store.admit(new_run(multitask_strategy="rollback"), epoch=me, limits=Limits())
        await store.withdraw(admission.run_id, epoch=me)
        row = await row_of(store, admission.run_id)
        assert (row.settled, row.rollback_state) == (True, "done")

    async def test_finish_starts_the_head_of_the_queue(self, store: CoordinationStore, me: int) -> None:
        own = await running(store, me)
        head, behind = [await waiting(store, me) for _ in range(2)]
        ended = ENDED._replace(status=RunStatus.success, values={"n": 2})
        finish = await store.finish(own, ended, following=NextStart(head, REF))
        assert finish.next_home is None
        assert finish.claimed is not None
        assert finish.claimed.started is not None
        assert finish.claimed == Claimed(head, own.fence + 1, finish.claimed.started)
        assert finish.claimed.started.values == {"n": 2}
        row = await row_of(store, head)
        assert (row.status, row.holds_thread, row.owner_epoch) == (RunStatus.running, True, me)
        assert (row.fence, row.rollback_ref) == (own.fence + 1, REF)
        assert [step.what for step in await store.transitions(head)] == ["queued", "claimed", "started"]
        assert (await row_of(store, behind)).status is RunStatus.pending

    async def test_repeated_finish_returns_the_run_that_it_started(
        self, store: CoordinationStore, me: int
    ) -> None:
        own = await running(store, me)
        head = await waiting(store, me)
        await waiting(store, me)
        first = await store.finish(own, SUCCESS, following=NextStart(head, REF))
        again = await store.finish(own, SUCCESS, following=NextStart(head, REF))
        assert again.claimed is not None
        assert first.claimed is not None
        assert (again.claimed.run_id, again.claimed.fence) == (first.claimed.run_id, first.claimed.fence)
        assert again.claimed.started is not None
        assert again.claimed.started.decision.status is RunStatus.running
        assert [step.what for step in await store.transitions(head)] == ["queued", "claimed", "started"]

    async def test_repeated_finish_starts_no_run_on_a_thread_that_another_run_has_taken(
        self, store: CoordinationStore, me: int
    ) -> None:
        """The answer of the first finish was lost, and the head was claimed meanwhile. The state of its
        thread may have to be opened first, so it starts by its own call."""
        own = await running(store, me)
        head, behind = [await waiting(store, me) for _ in range(2)]
        await store.finish(own, SUCCESS)
        await store.claim("t", epoch=me)
        again = await store.finish(own, SUCCESS, following=NextStart(behind, REF))
        assert again.claimed is None
        assert (await row_of(store, head)).status is RunStatus.pending
        assert (await row_of(store, behind)).holds_thread is False

    async def test_finish_of_a_cancelled_run_starts_the_head_as_well(
        self, store: CoordinationStore, me: int
    ) -> None:
        own = await running(store, me)
        head = await waiting(store, me)
        await cancel(store, own.run_id)
        finish = await store.finish(own, ENDED, following=NextStart(head, REF))
        assert finish.claimed is not None
        assert finish.claimed.run_id == head
        assert (await row_of(store, head)).status is RunStatus.running

    async def test_run_that_is_not_the_head_does_not_start(self, store: CoordinationStore, me: int) -> None:
        own = await running(store, me)
        head, behind = [await waiting(store, me) for _ in range(2)]
        await store.finish(own, SUCCESS, following=NextStart(behind, REF))
        assert (await row_of(store, behind)).status is RunStatus.pending
        assert (await row_of(store, head)).status is RunStatus.pending
        claimed = await store.claim("t", epoch=me)
        assert claimed == Claimed(head, own.fence + 1)

    async def test_head_that_another_worker_queued_is_left_to_that_worker(
        self, store: CoordinationStore, me: int, peer: int
    ) -> None:
        own = await running(store, me)
        head = await waiting(store, peer)
        finish = await store.finish(own, SUCCESS, following=NextStart(head, REF))
        assert (finish.claimed, finish.next_home) == (None, peer)
        assert (await row_of(store, head)).holds_thread is False

    async def test_head_that_was_cancelled_does_not_start(self, store: CoordinationStore, me: int) -> None:
        own = await running(store, me)
        head = await waiting(store, me)
        await cancel(store, head)
        finish = await store.finish(own, SUCCESS, following=NextStart(head, REF))
        assert (finish.claimed, finish.next_home) == (None, None)

    async def test_delayed_run_whose_time_has_come_goes_first(
        self, store: CoordinationStore, clock: StoreClock, me: int
    ) -> None:
        own = await running(store, me)
        delayed = new_run(multitask_strategy="enqueue", delay_ms=1000)
        await store.admit(delayed, epoch=me, limits=Limits())
        clock.advance(2.0)
        queued = await waiting(store, me)
        finish = await store.finish(own, SUCCESS, following=NextStart(queued, REF))
        assert (finish.claimed, finish.next_home) == (None, me)
        assert await store.claim("t", epoch=me) == Claimed(delayed.run_id, own.fence + 1)
        assert (await row_of(store, queued)).status is RunStatus.pending

    async def test_worker_that_was_declared_dead_starts_nothing(
        self, store: CoordinationStore, me: int, peer: int
    ) -> None:
        own = await running(store, me)
        head = await waiting(store, me)
        await fence_epoch(store, me, by=peer)
        finish = await store.finish(own, SUCCESS, following=NextStart(head, REF))
        assert finish.lost
        assert finish.claimed is None
        assert (await row_of(store, head)).holds_thread is False
