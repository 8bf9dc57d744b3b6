"""What an owner writes, and what decides a run: fences, cancels, the end of a run."""

from __future__ import annotations

import asyncio

from coordinator.testing.conformance.stores.builders import (
    ENDED,
    SUCCESS,
    Field,
    StoreCase,
    cancel,
    decided,
    declared_dead,
    holding,
    row_of,
    running,
    thread_of,
    waiting,
)
from coordinator.testing.conformance.suite import Check, checks_for, checks_of, refused
from stores.base import CoordinationStore
from stores.errors import StaleFence
from stores.rows import Outcome, Ownership, RunRow
from stores.states import CancelAction, RunStatus


async def write_with_a_wrong_guard_is_refused(case: StoreCase, guard: str) -> None:
    wrong: dict[str, dict[str, Field]] = {
        "epoch": {"epoch": 77},
        "newer fence": {"fence": 9},
        "older fence": {"fence": 0},
        "run": {"run_id": "other"},
    }
    store, (me, _) = case.store, await case.workers()
    own = await running(store, me)
    await _writes_nothing(store, own._replace(**wrong[guard]), await row_of(store, own.run_id))


async def _writes_nothing(store: CoordinationStore, own: Ownership, before: RunRow) -> None:
    finish = await store.finish(own, SUCCESS._replace(values={"zombie": True}))
    settle = await store.settle(own, ENDED, "done")
    assert (finish.lost, settle.lost) == (True, True)
    for write in (store.save(own, {"zombie": True}), store.restore(own), store.delete_thread(own)):
        with refused(StaleFence):
            await write
    assert await store.refence(own) is None
    assert await store.start(own, None) is None
    assert await row_of(store, before.run_id) == before
    thread = await thread_of(store)
    assert (thread.values, thread.fence) == (None, 1)


async def refence_refuses_the_old_fence(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    old = await running(store, me)
    new = await store.refence(old)
    assert new is not None
    assert new == old._replace(fence=2)
    assert await store.refence(old) == new, "repeated, it returns the same"
    with refused(StaleFence):
        await store.save(old, {"zombie": True})
    assert (await store.finish(old, SUCCESS)).lost
    await store.save(new, {"v": 1})
    assert (await store.finish(new, SUCCESS)).status is RunStatus.success
    assert (await holding(store, me)).fence == 3


async def fenced_worker_writes_nothing_before_and_after_the_sweep(case: StoreCase) -> None:
    store, (me, peer) = case.store, await case.workers()
    own = await running(store, peer)
    await declared_dead(store, peer, by=me)
    await _writes_nothing(store, own, await row_of(store, own.run_id))
    await store.sweep(by=me, error="dead")
    await _writes_nothing(store, own, await row_of(store, own.run_id))


async def cancel_before_the_start_wins(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    own = await holding(store, me)
    await cancel(store, own.run_id)
    started = await store.start(own, None)
    assert started is not None
    assert (started.decision.status, started.decision.won) == (RunStatus.interrupted, False)
    assert (await row_of(store, own.run_id)).started_at is None


async def first_cancel_stands(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    own = await running(store, me)
    first = await decided(store, own.run_id, reason="stop", actor="alice")
    again = await decided(store, own.run_id, action=CancelAction.rollback, reason="other", actor="bob")
    assert (first.won, first.settled, again.won) == (True, False, False)
    assert (again.action, again.reason, again.actor) == (CancelAction.interrupt, "stop", "alice")
    finish = await store.finish(own, SUCCESS._replace(result="lost", values={"late": 1}, delivered_at=5))
    row = await row_of(store, own.run_id)
    assert (finish.status, finish.lost, finish.undo) == (RunStatus.interrupted, False, False)
    assert finish.decision is not None
    assert not finish.decision.won
    assert (row.result, row.settled, row.cancel_delivered_at) == (None, True, 5)
    assert (await thread_of(store)).values == {"late": 1}, "the values that it returns are its last save"


async def cancel_is_read_by_its_owner_until_it_settles(case: StoreCase) -> None:
    """By the tick: no hint is needed."""
    store, (me, peer) = case.store, await case.workers()
    cancelled, quiet = await running(store, me, "a"), await running(store, me, "b")
    assert (await decided(store, cancelled.run_id)).won
    for _ in range(2):
        assert (await store.tick(me)).cancelled == (cancelled.run_id,)
    assert (await store.tick(peer)).cancelled == ()
    executing = (cancelled.run_id, quiet.run_id, "unknown")
    assert (await store.tick(me, executing)).not_held == {"unknown"}
    await store.finish(cancelled, SUCCESS)
    assert (await store.tick(me)).cancelled == ()


async def success_that_comes_first_stands(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    own = await running(store, me)
    await store.finish(own, SUCCESS)
    decision = await decided(store, own.run_id)
    assert (decision.won, decision.status, decision.action) == (False, RunStatus.success, None)
    assert await store.update_status(own.run_id, "error", error="x") is False
    assert (await row_of(store, own.run_id)).error is None


async def of_a_cancel_and_a_success_at_once_one_wins(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    for number in range(10):
        own = await running(store, me, f"t{number}")
        decision, finish = await asyncio.gather(decided(store, own.run_id), store.finish(own, SUCCESS))
        row = await row_of(store, own.run_id)
        assert decision.status == finish.status == row.status
        assert row.status is (RunStatus.interrupted if decision.won else RunStatus.success)
        assert row.settled


async def cancel_of_an_unknown_run_is_none(case: StoreCase) -> None:
    assert await cancel(case.store, "unknown") is None


async def finish_decides_and_settles_at_once(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    own = await running(store, me)
    outcome = SUCCESS._replace(result={"r": 1}, values={"v": 1}, paused=True, interrupts=[{"q": "?"}])
    finish = await store.finish(own, outcome)
    assert finish.decision is not None
    assert (finish.status, finish.decision.won, finish.decision.settled) == (RunStatus.success, True, True)
    row, thread = await row_of(store, own.run_id), await thread_of(store)
    assert (row.holds_thread, row.settled, row.result, row.paused) == (False, True, {"r": 1}, True)
    assert (thread.values, thread.interrupts, thread.status) == ({"v": 1}, [{"q": "?"}], "interrupted")


async def run_that_does_not_succeed_leaves_the_state_that_it_comes_with(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    interrupted = SUCCESS._replace(values={"n": 1}, paused=True, interrupts=["why?"])
    await store.finish(await running(store, me), interrupted)
    for number, status in enumerate((RunStatus.error, RunStatus.timeout, RunStatus.interrupted), 2):
        own = await running(store, me)
        await store.finish(own, Outcome(status, values={"n": number}, interrupts=[number]))
        thread, row = await thread_of(store), await row_of(store, own.run_id)
        assert (thread.values, thread.interrupts) == ({"n": number}, [number])
        assert (row.result, row.interrupts, row.paused) == (None, None, False)
    cancelled = await running(store, me)
    await decided(store, cancelled.run_id)
    await store.finish(cancelled, ENDED._replace(values={"n": 9}))
    thread = await thread_of(store)
    assert (thread.values, thread.interrupts) == ({"n": 9}, None)


async def state_of_a_run_that_does_not_hold_the_thread_is_refused(case: StoreCase) -> None:
    store, (me, peer) = case.store, await case.workers()
    own, state = await running(store, me), {"stale": True}
    for stale in (own._replace(fence=own.fence + 1), own._replace(epoch=peer)):
        assert (await store.finish(stale, ENDED._replace(values=state))).lost
    await store.finish(own, Outcome(RunStatus.error, values=state), hold=True)
    assert (await thread_of(store)).values is None, "its task has not stopped"
    await store.finish(own, ENDED)
    undone = await running(store, me)
    await decided(store, undone.run_id, action=CancelAction.rollback)
    assert (await store.finish(undone, ENDED._replace(values=state))).undo
    assert (await thread_of(store)).values is None


async def finished_run_is_not_written_again(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    own = await running(store, me)
    await store.finish(own, SUCCESS._replace(result=1, values={"kept": True}))
    before = await row_of(store, own.run_id)
    case.clock.advance(1)
    with refused(StaleFence):
        await store.save(own, {"late": True})
    finish = await store.finish(own, Outcome(RunStatus.error, error="late", values={"late": True}))
    assert (finish.status, finish.lost) == (RunStatus.success, False), "it returns the decision that stands"
    assert await store.refence(own) is None
    assert await row_of(store, own.run_id) == before
    assert (await thread_of(store)).values == {"kept": True}


async def run_settles_once(case: StoreCase) -> None:
    """Only a decided run; repeated, it has no effect, not even on the time."""
    store, (me, _) = case.store, await case.workers()
    own = await running(store, me)
    assert (await store.settle(own, ENDED)).status is RunStatus.running
    assert (await row_of(store, own.run_id)).holds_thread
    await cancel(store, own.run_id)
    assert (await store.settle(own, ENDED)).status is RunStatus.interrupted
    settled = await row_of(store, own.run_id)
    case.clock.advance(1)
    again = await store.settle(own, ENDED._replace(error="late", values={"late": True}), "failed")
    assert again.status is RunStatus.interrupted
    assert await row_of(store, own.run_id) == settled
    assert (await thread_of(store)).values is None
    assert await store.holder("t") is None
    steps = [step.what for step in await store.transitions(own.run_id)]
    assert steps == ["admitted", "started", "decided", "settled"]


async def finish_that_holds_keeps_the_thread_until_settle(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    own = await running(store, me)
    for status in (RunStatus.success, RunStatus.error):
        finish = await store.finish(own, Outcome(status), hold=True)
        assert finish.decision is not None
        assert (finish.status, finish.decision.settled) == (RunStatus.success, False)
        assert finish.decision.won is (status is RunStatus.success)
    assert await store.holder("t") == own.run_id
    decision = await decided(store, own.run_id)
    assert (decision.status, decision.won) == (RunStatus.success, False)
    assert (await store.settle(own, SUCCESS)).status is RunStatus.success
    assert await store.holder("t") is None


async def start_is_repeatable(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    await store.finish(await running(store, me), SUCCESS._replace(values={"n": 1}))
    own = await holding(store, me)
    first, again = await store.start(own, {"ref": 1}), await store.start(own, {"ref": 2})
    assert first is not None
    assert again is not None
    assert (first.decision.won, again.decision.won) == (True, False)
    assert first.decision.status is again.decision.status is RunStatus.running
    assert first.values == again.values == {"n": 1}
    assert (await row_of(store, own.run_id)).rollback_ref == {"ref": 1}


async def rollback_holds_the_thread_until_its_values_are_back(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    await store.finish(await running(store, me), SUCCESS._replace(values={"n": 0}))
    own = await running(store, me)
    for number in (1, 2):
        await store.save(own, {"n": number})
    assert (await row_of(store, own.run_id)).rollback_ref["values"] == {"n": 0}, "kept once"
    await cancel(store, own.run_id, CancelAction.rollback)
    for _ in range(2):
        finish = await store.finish(own, SUCCESS)
        assert (finish.status, finish.undo, finish.lost) == (RunStatus.interrupted, True, False)
    assert await store.holder("t") == own.run_id
    for _ in range(2):
        assert await store.restore(own) == {"n": 0}
    assert (await store.settle(own, ENDED, "done")).status is RunStatus.interrupted
    thread = await thread_of(store)
    assert (thread.values, thread.status) == ({"n": 0}, "idle")
    assert (await row_of(store, own.run_id)).rollback_state == "done"


async def users_take_turns_among_runs_that_wait_for_a_place(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    owned: list[str] = []
    for number, user in enumerate(("u", "u", "u", "v", "v", None)):
        owned.append((await holding(store, me, f"t{number}", user_id=user)).run_id)
        case.clock.advance(1)
    assert await store.pending_on(me) == [owned[place] for place in (0, 3, 5, 1, 4, 2)]


async def answered_writes_are_read_at_once(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    own = await running(store, me, user_id="u")
    queued = await waiting(store, me, user_id="u")
    assert (await row_of(store, own.run_id)).status is RunStatus.running
    assert await store.holder("t") == own.run_id
    assert (await thread_of(store)).status == "busy"
    assert {row.run_id for row in await store.runs(in_flight=True)} == {own.run_id, queued}
    assert await store.waiting_line("t") == [queued]
    assert await store.pending_on(me) == []
    pending = await holding(store, me, "other")
    assert await store.pending_on(me) == [pending.run_id]
    await store.finish(pending, SUCCESS)
    await store.save(own, {"n": 1})
    assert (await thread_of(store)).values == {"n": 1}
    await cancel(store, own.run_id)
    standing = await store.standing(own.run_id)
    assert standing is not None
    assert (standing.status, standing.settled) == (RunStatus.interrupted, False)
    await store.finish(own, ENDED)
    assert await store.holder("t") == queued
    record = await store.get(own.run_id)
    assert record is not None
    assert record["status"] == "interrupted"


async def calls_at_once_equal_calls_one_by_one(case: StoreCase) -> None:
    """A store may execute calls that are made at once in one transaction."""
    store, (me, _) = case.store, await case.workers()

    async def life(thread: str) -> tuple[object, ...]:
        own = await running(store, me, thread)
        queued = await waiting(store, me, thread, run_id=f"{thread} queued")
        decision = await decided(store, own.run_id, reason="r")
        finish = await store.finish(own, SUCCESS._replace(values={"n": 1}))
        claimed = await store.claim(thread, epoch=me)
        row, next_row, values = await row_of(store, own.run_id), await row_of(store, queued), None
        values = (await thread_of(store, thread)).values
        steps = [step.what for step in await store.transitions(own.run_id)]
        return (
            (decision.won, decision.status, decision.settled, finish.status, finish.lost, finish.next_home),
            (claimed and claimed.fence, row.status, row.fence, row.seq, row.cancel_reason, row.settled),
            (next_row.status, next_row.holds_thread, next_row.fence, next_row.seq, values, steps),
        )

    single = await life("single")
    assert await asyncio.gather(*(life(f"t{number}") for number in range(20))) == [single] * 20


_FENCES = "a write without the run's owner and fence is refused"
_CANCELS = "a cancel that was answered is not lost"
_SETTLES = "a run is decided once and settles once"

OWNERSHIP: tuple[Check[StoreCase], ...] = (
    *checks_for(
        ("epoch", "newer fence", "older fence", "run"), write_with_a_wrong_guard_is_refused, promise=_FENCES
    ),
    *checks_of(refence_refuses_the_old_fence, promise=_FENCES),
    *checks_of(
        fenced_worker_writes_nothing_before_and_after_the_sweep, promise="a dead worker writes nothing"
    ),
    *checks_of(
        cancel_before_the_start_wins,
        first_cancel_stands,
        cancel_is_read_by_its_owner_until_it_settles,
        of_a_cancel_and_a_success_at_once_one_wins,
        cancel_of_an_unknown_run_is_none,
        promise=_CANCELS,
    ),
    *checks_of(
        success_that_comes_first_stands,
        finish_decides_and_settles_at_once,
        run_that_does_not_succeed_leaves_the_state_that_it_comes_with,
        state_of_a_run_that_does_not_hold_the_thread_is_refused,
        finished_run_is_not_written_again,
        run_settles_once,
        finish_that_holds_keeps_the_thread_until_settle,
        start_is_repeatable,
        promise=_SETTLES,
    ),
    *checks_of(
        rollback_holds_the_thread_until_its_values_are_back, promise="a rollback restores the thread's values"
    ),
    *checks_of(answered_writes_are_read_at_once, promise="a write that was answered is visible"),
    *checks_of(
        users_take_turns_among_runs_that_wait_for_a_place,
        promise="the runs that wait for a place of a worker are read in the order in which it serves them",
    ),
    *checks_of(calls_at_once_equal_calls_one_by_one, promise="calls at once have the result of single calls"),
)
