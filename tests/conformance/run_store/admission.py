"""admit, insert, withdraw."""

from __future__ import annotations

import pytest

from stores.base import CoordinationStore
from stores.errors import QueueFull, ThreadNotFound
from stores.rows import Limits, Ownership
from stores.states import CancelAction, RunStatus
from tests.conformance.run_store.case import StoreCase
from tests.support.builders import (
    SUCCESS,
    StoreClock,
    admitted,
    cancel,
    holding,
    new_run,
    row_of,
)

NONE = Limits()


class Admissions(StoreCase):
    async def test_an_operation_is_not_cancelled_but_waited_out(
        self, store: CoordinationStore, me: int
    ) -> None:
        operation = await holding(store, me, kind="op")
        admission = await admitted(store, me, multitask_strategy="interrupt")
        assert (admission.holds, admission.replaced) == (False, ())
        assert (await row_of(store, operation.run_id)).open
        assert [row.run_id for row in await store.runs(thread_id="t")] == [admission.run_id]

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


async def own(store: CoordinationStore, run_id: str, epoch: int) -> Ownership:
    row = await row_of(store, run_id)
    return Ownership(run_id, row.thread_id, epoch, row.fence)
