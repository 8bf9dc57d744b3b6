"""admit, insert, withdraw."""

from __future__ import annotations

from typing import Any

import pytest

from stores.base import CoordinationStore
from stores.errors import ConflictError, EpochDead, IdempotencyConflict, QueueFull, ThreadNotFound
from stores.rows import Limits, Ownership
from stores.states import CancelAction, Cause, RunStatus
from tests.conformance.run_store.case import StoreCase
from tests.support.builders import (
    SUCCESS,
    StoreClock,
    admitted,
    cancel,
    fence_epoch,
    holding,
    new_run,
    row_of,
    running,
    waiting,
)
from tests.support.strategies import STRATEGIES

NONE = Limits()


class Admissions(StoreCase):
    @pytest.mark.parametrize("strategy", STRATEGIES)
    async def test_an_idle_thread_is_taken_with_a_new_fence(
        self, store: CoordinationStore, me: int, strategy: str
    ) -> None:
        first = await admitted(store, me, multitask_strategy=strategy)
        assert (first.holds, first.fence, first.replaced) == (True, 1, ())
        assert (await store.finish((await own(store, first.run_id, me)), SUCCESS)).status is RunStatus.success
        assert (await admitted(store, me, multitask_strategy=strategy)).fence == 2

    @pytest.mark.parametrize("strategy", STRATEGIES)
    async def test_repeated_admission_with_the_same_id_returns_the_same(
        self, store: CoordinationStore, me: int, strategy: str
    ) -> None:
        await running(store, me)
        run = new_run(multitask_strategy=strategy)
        if strategy == "reject":
            for _ in range(2):
                with pytest.raises(ConflictError):
                    await store.admit(run, epoch=me, limits=NONE)
            return
        first = await store.admit(run, epoch=me, limits=NONE)
        again = await store.admit(run, epoch=me, limits=NONE)
        assert (again.run_id, again.holds, again.fence, again.seq) == (
            first.run_id,
            first.holds,
            first.fence,
            first.seq,
        )
        assert first.existing is None
        assert again.existing is not None
        assert len(await store.runs(thread_id="t")) == 2

    async def test_reject_names_the_holder_and_changes_nothing(
        self, store: CoordinationStore, me: int
    ) -> None:
        own_ = await running(store, me)
        with pytest.raises(ConflictError) as refused:
            await admitted(store, me)
        assert refused.value.active_run_id == own_.run_id
        assert (await row_of(store, own_.run_id)).status is RunStatus.running

    async def test_reject_conflicts_with_a_run_that_is_still_unwinding(
        self, store: CoordinationStore, me: int
    ) -> None:
        own_ = await running(store, me)
        await cancel(store, own_.run_id)
        with pytest.raises(ConflictError):
            await admitted(store, me)
        await store.finish(own_, SUCCESS)
        assert (await admitted(store, me)).holds

    async def test_enqueue_joins_the_queue_also_of_a_free_thread(
        self, store: CoordinationStore, me: int, peer: int
    ) -> None:
        """Queued runs go first: FIFO, although the thread is free at this moment."""
        own_ = await running(store, me)
        first = await waiting(store, peer)
        await store.finish(own_, SUCCESS)
        second = await waiting(store, me)
        assert await store.waiting_line("t") == [first, second]
        with pytest.raises(ConflictError) as refused:
            await admitted(store, me)
        assert refused.value.active_run_id == first

    @pytest.mark.parametrize("strategy", ["interrupt", "rollback"])
    async def test_everything_in_flight_is_decided_and_the_new_run_waits_for_the_holder(
        self, store: CoordinationStore, me: int, peer: int, strategy: str
    ) -> None:
        holder = await running(store, peer)
        waiter = await waiting(store, me)
        admission = await admitted(store, me, multitask_strategy=strategy, user_id="u")
        assert not admission.holds
        assert {(d.run_id, d.won, d.settled) for d in admission.replaced} == {
            (holder.run_id, True, False),
            (waiter, True, True),
        }
        row = await row_of(store, holder.run_id)
        assert (row.status, row.holds_thread) == (RunStatus.interrupted, True)
        assert (row.cancel_action, row.cancel_cause, row.cancel_actor) == (strategy, Cause.superseded, "u")
        assert (await row_of(store, waiter)).settled
        assert await store.waiting_line("t") == [admission.run_id]

    async def test_interrupt_takes_the_thread_at_once_where_only_waiting_runs_are_in_flight(
        self, store: CoordinationStore, me: int, peer: int
    ) -> None:
        own_ = await running(store, me)
        waiter = await waiting(store, peer)
        await store.finish(own_, SUCCESS)
        admission = await admitted(store, me, multitask_strategy="interrupt")
        assert (admission.holds, admission.fence) == (True, 2)
        assert (await row_of(store, waiter)).status is RunStatus.interrupted

    async def test_the_first_action_over_a_run_stays(self, store: CoordinationStore, me: int) -> None:
        own_ = await running(store, me)
        await cancel(store, own_.run_id, CancelAction.interrupt)
        admission = await admitted(store, me, multitask_strategy="rollback")
        assert [(d.won, d.action) for d in admission.replaced] == [(False, CancelAction.interrupt)]

    async def test_an_operation_is_not_cancelled_but_waited_out(
        self, store: CoordinationStore, me: int
    ) -> None:
        operation = await holding(store, me, kind="op")
        admission = await admitted(store, me, multitask_strategy="interrupt")
        assert (admission.holds, admission.replaced) == (False, ())
        assert (await row_of(store, operation.run_id)).open
        assert [row.run_id for row in await store.runs(thread_id="t")] == [admission.run_id]

    async def test_a_refused_admission_leaves_the_runs_in_flight_alone(
        self, store: CoordinationStore, me: int
    ) -> None:
        """The decisions over the old runs and the new row are one unit."""
        own_ = await running(store, me)
        with pytest.raises((TypeError, ValueError)):
            await admitted(store, me, multitask_strategy="interrupt", metadata={"x": object()})
        assert (await row_of(store, own_.run_id)).status is RunStatus.running

    async def test_the_queue_is_bounded_per_thread_and_per_user(
        self, store: CoordinationStore, me: int
    ) -> None:
        limits = Limits(per_thread=1, per_user=2)
        for thread in "abc":
            await holding(store, me, thread, user_id="u")
        await store.admit(new_run("a", multitask_strategy="enqueue", user_id="u"), epoch=me, limits=limits)
        with pytest.raises(QueueFull, match="thread"):
            await store.admit(
                new_run("a", multitask_strategy="enqueue", user_id="u"), epoch=me, limits=limits
            )
        await store.admit(new_run("b", multitask_strategy="enqueue", user_id="u"), epoch=me, limits=limits)
        with pytest.raises(QueueFull, match="user"):
            await store.admit(
                new_run("c", multitask_strategy="enqueue", user_id="u"), epoch=me, limits=limits
            )
        assert (
            await store.admit(
                new_run("d", multitask_strategy="enqueue", user_id="u"), epoch=me, limits=limits
            )
        ).holds

    @pytest.mark.parametrize("bound", ["thread", "user"])
    async def test_pending_run_beside_the_slot_takes_no_place_in_the_queue(
        self, store: CoordinationStore, me: int, bound: str
    ) -> None:
        await holding(store, me, user_id="u")
        beside = await store.insert(new_run(user_id="u", portable=True, assistant_id="a"), epoch=me)
        assert not beside.holds
        limits = Limits(per_thread=1) if bound == "thread" else Limits(per_user=1)
        first, second = (new_run(user_id="u", multitask_strategy="enqueue") for _ in range(2))
        await store.admit(first, epoch=me, limits=limits)
        with pytest.raises(QueueFull, match=bound):
            await store.admit(second, epoch=me, limits=limits)

    async def test_replacing_run_counts_against_max_waiting_per_user(
        self, store: CoordinationStore, me: int
    ) -> None:
        """Otherwise a user could have one run waiting on each of any number of threads."""
        limits = Limits(per_user=1)
        for thread in "ab":
            await running(store, me, thread, user_id="u")
        for strategy in ("interrupt", "rollback"):
            await store.admit(new_run("a", multitask_strategy=strategy, user_id="u"), epoch=me, limits=limits)
            mine = (await store.runs(thread_id="b"))[0]
            with pytest.raises(QueueFull, match="user"):
                await store.admit(
                    new_run("b", multitask_strategy=strategy, user_id="u"), epoch=me, limits=limits
                )
            assert (await row_of(store, mine.run_id)).status is RunStatus.running, "nothing was replaced"
        await store.admit(new_run("b", multitask_strategy="rollback"), epoch=me, limits=limits)  # the system

    async def test_thread_without_a_user_is_assigned_to_the_runs_user_if_adoptable(
        self, store: CoordinationStore, me: int
    ) -> None:
        await holding(store, me)
        with pytest.raises(ThreadNotFound):
            await admitted(store, me, user_id="bob", multitask_strategy="enqueue", adopt_thread=False)
        assert await admitted(store, me, user_id="bob", multitask_strategy="enqueue")
        with pytest.raises(ThreadNotFound):
            await admitted(store, me, user_id="alice", multitask_strategy="enqueue")
        made = await admitted(store, me, "new", user_id="bob", adopt_thread=False)
        assert made.holds, "a thread that does not exist is created"
        assert (
            await admitted(store, me, "new", user_id="bob", adopt_thread=False, multitask_strategy="enqueue")
        ).seq

    async def test_a_thread_belongs_to_the_first_user_admitted_on_it(
        self, store: CoordinationStore, me: int
    ) -> None:
        await store.put("import", thread_id="t", user_id="imported", status="success")
        own_ = await holding(store, me, user_id="alice")
        for strategy in STRATEGIES:
            with pytest.raises(ThreadNotFound):
                await admitted(store, me, user_id="bob", multitask_strategy=strategy)
        assert (await row_of(store, own_.run_id)).open
        assert (await admitted(store, me, multitask_strategy="enqueue")).seq  # the system may
        thread = await store.thread("t")
        assert thread is not None
        assert thread.user_id == "alice"

    async def test_foreign_thread_is_not_found_by_any_request(
        self, store: CoordinationStore, me: int
    ) -> None:
        """Neither a conflict, a full queue nor an idempotency key reveals that the thread exists."""
        await holding(store, me, user_id="alice", idempotency_key="k")
        with pytest.raises(ThreadNotFound):
            await admitted(store, me, user_id="bob", idempotency_key="k")
        with pytest.raises(ThreadNotFound):
            await store.admit(
                new_run(user_id="bob", multitask_strategy="enqueue"), epoch=me, limits=Limits(per_thread=0)
            )

    async def test_a_run_id_of_another_thread_or_user_is_a_conflict(
        self, store: CoordinationStore, me: int
    ) -> None:
        own_ = await holding(store, me, "theirs", user_id="alice")
        with pytest.raises(ConflictError) as refused:
            await admitted(store, me, "mine", user_id="bob", run_id=own_.run_id)
        assert refused.value.active_run_id is None

    async def test_an_idempotency_key_gives_the_first_run_again(
        self, store: CoordinationStore, me: int, peer: int
    ) -> None:
        run = new_run(user_id="u", idempotency_key="k", request_hash="h")
        first = await store.admit(run, epoch=me, limits=NONE)
        again = await store.admit(run._replace(run_id="other"), epoch=peer, limits=NONE)
        assert (again.run_id, again.existing is not None) == (first.run_id, True)
        assert await store.row("other") is None

    @pytest.mark.parametrize("change", [{"request_hash": "other"}, {"thread_id": "other"}, {"user_id": None}])
    async def test_the_same_key_for_something_else_is_a_conflict(
        self, store: CoordinationStore, me: int, change: dict[str, Any]
    ) -> None:
        fields: dict[str, Any] = {"user_id": "u", "idempotency_key": "k", "request_hash": "h"}
        await store.admit(new_run(**fields), epoch=me, limits=NONE)
        with pytest.raises(IdempotencyConflict):
            await store.admit(new_run(**{**fields, **change}), epoch=me, limits=NONE)

    async def test_the_same_key_of_another_user_on_another_thread_is_another_key(
        self, store: CoordinationStore, me: int
    ) -> None:
        await holding(store, me, "a", user_id="alice", idempotency_key="k")
        await holding(store, me, "b", user_id="bob", idempotency_key="k")

    async def test_a_dead_or_unknown_epoch_admits_nothing(
        self, store: CoordinationStore, me: int, peer: int
    ) -> None:
        await fence_epoch(store, peer, by=me)
        for epoch in (peer, 999):
            with pytest.raises(EpochDead):
                await admitted(store, epoch)
            with pytest.raises(EpochDead):
                await store.insert(new_run(), epoch=epoch)
        assert await store.thread("t") is None

    async def test_insert_takes_an_idle_thread_and_lives_beside_a_busy_one(
        self, store: CoordinationStore, me: int
    ) -> None:
        first = await store.insert(new_run(), epoch=me)
        run = new_run()
        second = await store.insert(run, epoch=me)
        assert (first.holds, second.holds, second.fence) == (True, False, 0)
        assert (await store.insert(run, epoch=me)).existing is not None
        beside = (await own(store, second.run_id, me))._replace(fence=0)
        assert await store.start(beside, None) is not None
        outcome = SUCCESS._replace(values={"beside": True})
        assert (await store.finish(beside, outcome)).status is RunStatus.success
        thread = await store.thread("t")
        assert thread is not None
        assert thread.values is None, "only the holder writes the thread's values"

    async def test_a_rolled_back_run_beside_the_slot_has_nothing_to_undo(
        self, store: CoordinationStore, me: int
    ) -> None:
        await holding(store, me)
        beside = await store.insert(new_run(), epoch=me)
        own_ = (await own(store, beside.run_id, me))._replace(fence=0)
        await store.start(own_, None)
        await cancel(store, own_.run_id, CancelAction.rollback)
        finish = await store.finish(own_, SUCCESS)
        assert (finish.status, finish.undo) == (RunStatus.interrupted, False)
        assert (await row_of(store, own_.run_id)).settled

    @pytest.mark.parametrize("cancelled", [False, True])
    @pytest.mark.parametrize("waits", [False, True])
    async def test_withdraw_frees_what_its_caller_left(
        self, store: CoordinationStore, me: int, *, waits: bool, cancelled: bool
    ) -> None:
        if waits:
            await holding(store, me)
        run_id = await waiting(store, me) if waits else (await holding(store, me)).run_id
        if cancelled:
            await cancel(store, run_id, reason="by a peer")
        for _ in range(2):
            decision = await store.withdraw(run_id, epoch=me)
            assert decision is not None
            assert (decision.status, decision.settled) == (RunStatus.interrupted, True)
            assert decision.reason == ("by a peer" if cancelled else decision.reason)
        assert await store.holder("t") != run_id

    async def test_withdrawing_a_cancelled_run_does_not_move_its_end(
        self, store: CoordinationStore, clock: StoreClock, me: int
    ) -> None:
        run_id = (await holding(store, me)).run_id
        await cancel(store, run_id)
        ended = clock.micros
        clock.advance(5)
        assert await store.withdraw(run_id, epoch=me) is not None
        row = await row_of(store, run_id)
        assert (row.ended_at, row.cancel_requested_at, row.settled_at) == (ended, ended, clock.micros)

    async def test_withdraw_touches_no_run_of_another_worker(
        self, store: CoordinationStore, me: int, peer: int
    ) -> None:
        own_ = await holding(store, me)
        await store.withdraw(own_.run_id, epoch=peer)
        assert (await row_of(store, own_.run_id)).open
        assert await store.withdraw("unknown", epoch=me) is None


async def own(store: CoordinationStore, run_id: str, epoch: int) -> Ownership:
    row = await row_of(store, run_id)
    return Ownership(run_id, row.thread_id, epoch, row.fence)
