"""start, save, finish, settle, refence, decide: the owner's guard, and races of decisions."""

from __future__ import annotations

from typing import Any

import pytest

from stores.base import CoordinationStore
from stores.catalogue import ThreadPatch
from stores.errors import StaleFence
from stores.rows import Outcome
from stores.states import CancelAction, Cause, RunStatus
from tests.conformance.run_store.case import StoreCase
from tests.support.builders import ENDED, SUCCESS, StoreClock, cancel, holding, row_of, running

WRONG = (
    pytest.param({"epoch": 77}, id="epoch"),
    pytest.param({"fence": 9}, id="newer fence"),
    pytest.param({"fence": 0}, id="older fence"),
    pytest.param({"run_id": "other"}, id="run"),
)


class Owners(StoreCase):
    async def test_thread_shows_its_assistant_and_when_it_changed(
        self, store: CoordinationStore, me: int, clock: StoreClock
    ) -> None:
        made = clock.micros
        own = await running(store, me, assistant_id="agent")
        clock.advance(1)
        await store.save(own, {"n": 1})
        clock.advance(1)
        await store.patch_thread("t", ThreadPatch({"a": 1}), user_id=None)
        thread = await store.thread("t")
        assert thread is not None
        assert thread.assistant_id == "agent"
        times = [thread.created_at, thread.state_updated_at, thread.updated_at]
        assert times == [made, made + 1_000_000, made + 2_000_000]

    async def test_interrupts_follow_each_success_also_without_values(
        self, store: CoordinationStore, me: int
    ) -> None:
        """A thread that is no longer paused has no pending interrupts."""
        outcome = SUCCESS._replace(paused=True, interrupts=["question"])
        await store.finish(await running(store, me), outcome)
        thread = await store.thread("t")
        assert thread is not None
        assert thread.interrupts == ["question"]
        await store.finish(await running(store, me), SUCCESS)
        thread = await store.thread("t")
        assert thread is not None
        assert (thread.interrupts, thread.status) == (None, "idle")

    @pytest.mark.parametrize("status", [RunStatus.interrupted, RunStatus.timeout])
    async def test_run_that_must_stop_saves_once_more(
        self, store: CoordinationStore, me: int, status: RunStatus
    ) -> None:
        own = await running(store, me)
        await store.save(own, {"n": 1})
        await store.decide(own.run_id, status, action=CancelAction.interrupt, cause=Cause.user, actor="ann")
        with pytest.raises(StaleFence):
            await store.save(own, {"n": 2})
        for _ in range(2):
            await store.save(own, {"n": 3}, last=True)  # the first answer may be lost
        with pytest.raises(StaleFence):
            await store.save(own, {"n": 4}, last=True)
        finish = await store.finish(own, Outcome(RunStatus.interrupted))
        assert (finish.status, finish.lost) == (status, False)
        with pytest.raises(StaleFence):
            await store.save(own, {"n": 3}, last=True)
        assert await self._values(store) == {"n": 3}
        steps = await store.transitions(own.run_id)
        assert [step.what for step in steps] == ["admitted", "started", "decided", "saved", "settled"]
        saved = steps[3]
        assert (saved.from_status, saved.to_status, saved.holds_thread) == (status, status, True)
        assert (saved.cause, saved.actor, saved.epoch, saved.fence) == (Cause.user, "ann", me, own.fence)

    async def test_the_last_save_is_the_holders_alone(self, store: CoordinationStore, me: int) -> None:
        own = await running(store, me)
        await store.save(own, {"n": 1}, last=True)  # not cancelled yet: an ordinary save
        await cancel(store, own.run_id)
        for stale in (own._replace(fence=own.fence + 1), own._replace(epoch=own.epoch + 1)):
            with pytest.raises(StaleFence):
                await store.save(stale, {"n": 2}, last=True)
        newer = await store.refence(own)  # it was forced
        assert newer is not None
        with pytest.raises(StaleFence):
            await store.save(own, {"n": 2}, last=True)
        assert await self._values(store) == {"n": 1}

    async def test_rolled_back_or_ended_run_saves_nothing_more(
        self, store: CoordinationStore, me: int
    ) -> None:
        for action, decide in ((CancelAction.rollback, True), (CancelAction.interrupt, False)):
            own = await running(store, me, f"t-{action}")
            await store.save(own, {"n": 1})
            if decide:
                await cancel(store, own.run_id, action)
            else:
                await store.finish(own, SUCCESS, hold=True)
            with pytest.raises(StaleFence):
                await store.save(own, {"n": 2}, last=True)

    async def test_values_returned_by_a_run_that_must_stop_are_its_last_save(
        self, store: CoordinationStore, me: int
    ) -> None:
        for action, kept in ((CancelAction.interrupt, {"n": 2}), (CancelAction.rollback, {"n": 1})):
            thread = f"t-{action}"
            own = await running(store, me, thread)
            await store.save(own, {"n": 1})
            await cancel(store, own.run_id, action)
            finish = await store.finish(
                own, SUCCESS._replace(values={"n": 2}, result={"n": 2}, interrupts=["?"])
            )
            assert (finish.status, finish.undo) == (RunStatus.interrupted, action is CancelAction.rollback)
            row_of_thread = await store.thread(thread)
            assert row_of_thread is not None
            assert (row_of_thread.values, row_of_thread.interrupts) == (kept, None)
            row = await row_of(store, own.run_id)
            assert (row.status, row.result) == (RunStatus.interrupted, None)

    async def _values(self, store: CoordinationStore) -> Any:
        thread = await store.thread("t")
        assert thread is not None
        return thread.values

    async def test_pending_may_end_without_running(self, store: CoordinationStore, me: int) -> None:
        own = await holding(store, me)
        assert (await store.finish(own, Outcome(RunStatus.error, error="x"))).status is RunStatus.error
        assert (await row_of(store, own.run_id)).error == "x"

    @pytest.mark.parametrize("outcome", [SUCCESS, ENDED], ids=["returned", "stopped"])
    async def test_time_of_the_last_delivery_of_a_cancel_is_kept(
        self, store: CoordinationStore, me: int, outcome: Outcome
    ) -> None:
        """A cancel that the run's code swallowed is delivered again."""
        own = await running(store, me)
        await cancel(store, own.run_id)
        await store.finish(own, outcome._replace(delivered_at=5), hold=True)
        assert (await row_of(store, own.run_id)).cancel_delivered_at == 5
        await store.finish(own, outcome, hold=True)
        assert (await row_of(store, own.run_id)).cancel_delivered_at == 5, "none was given: it stays"
        await store.finish(own, outcome._replace(delivered_at=9))
        assert (await row_of(store, own.run_id)).cancel_delivered_at == 9

    async def test_decide_takes_outcomes_only_and_knows_no_unknown_run(
        self, store: CoordinationStore, me: int
    ) -> None:
        own = await running(store, me)
        for status in (RunStatus.pending, RunStatus.running):
            with pytest.raises(ValueError, match="no outcome"):
                await store.decide(own.run_id, status, action=CancelAction.interrupt, cause=Cause.user)
            with pytest.raises(ValueError, match="no outcome"):
                await store.finish(own, Outcome(status))
        assert await cancel(store, "unknown") is None

    async def test_text_that_utf8_cannot_hold_does_not_keep_a_run_from_ending(
        self, store: CoordinationStore, me: int
    ) -> None:
        own = await running(store, me)
        await cancel(store, own.run_id, reason="\ud800", actor="\udfff")
        await store.finish(own, SUCCESS)
        own = await running(store, me)
        outcome = Outcome(RunStatus.error, error="bad \ud800 \x00", result={"\ud800": "\udfff"})
        assert (await store.finish(own, outcome)).status is RunStatus.error
        row = await row_of(store, own.run_id)
        assert row.error == "bad \\ud800 \x00"
        assert row.result == {"\ud800": "\udfff"}

    @pytest.mark.parametrize("strange", [object(), float("nan"), {1, 2}], ids=["object", "nan", "set"])
    async def test_values_that_json_cannot_hold_are_refused_and_nothing_is_written(
        self, store: CoordinationStore, me: int, strange: Any
    ) -> None:
        own = await running(store, me)
        with pytest.raises((TypeError, ValueError)):
            await store.finish(own, SUCCESS._replace(values={"x": strange}))
        with pytest.raises((TypeError, ValueError)):
            await store.save(own, strange)
        assert (await row_of(store, own.run_id)).status is RunStatus.running

    async def test_late_end_leaves_what_a_success_has_written(
        self, store: CoordinationStore, me: int
    ) -> None:
        own = await running(store, me)
        paused = SUCCESS._replace(values={"n": 0}, paused=True, interrupts=["question"])
        await store.finish(own, paused, hold=True)
        finish = await store.finish(own, ENDED)
        assert finish.status is RunStatus.success
        thread = await store.thread("t")
        assert thread is not None
        assert (thread.values, thread.interrupts) == ({"n": 0}, ["question"])
