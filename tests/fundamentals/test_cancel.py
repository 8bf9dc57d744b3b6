"""cancel: from any worker, in any phase, any number of times. Committed, acknowledged, then published."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from coordinator import (
    CancelNotDurable,
    NotSettled,
    Outcome,
    RunContext,
    RunManager,
    RunStatus,
    StoreUnavailable,
)
from coordinator.notifier import Signal
from stores.states import CancelAction, Cause
from tests.support.agents import Agent, launched, quick, running
from tests.support.held import hold_answers, hold_calls
from tests.support.inside import assembly_of
from tests.support.teams import on_every_store

pytestmark = on_every_store

ANYWHERE = pytest.mark.parametrize("canceller", [0, 1], ids=["owner", "other worker"])


@ANYWHERE
async def test_cancel_stops_a_running_run(team: list[RunManager], canceller: int) -> None:
    """Reported failure 1: a cancel arrives at a worker that does not own the run."""
    run, agent = await running(team[0], "t")
    assert await team[canceller].cancel(run.run_id, reason="enough", actor="u1", wait=5)
    assert agent.stopped.is_set()
    assert run.status is RunStatus.interrupted
    assert agent.ctx.abort is not None
    assert (agent.ctx.abort.cause, agent.ctx.abort.reason, agent.ctx.abort.actor) == ("user", "enough", "u1")


async def test_counters_and_model_name_of_a_task_that_unwinds_are_stored(team: list[RunManager]) -> None:
    run, agent = await running(team[0], "t", Agent(stubborn=True))
    cancelling = asyncio.create_task(team[0].cancel(run.run_id, wait=20))
    await agent.cancelled.wait()
    await team[0].update_run_completion(run.run_id, total_tokens=7)
    await team[0].update_model_name(run.run_id, "m")
    agent.may_stop.set()
    assert await cancelling
    row = (await team[1].runs.explain(run.run_id)).run
    assert (row.counters["total_tokens"], row.model_name) == (7, "m")


@ANYWHERE
async def test_cancelled_pending_run_never_starts(team: list[RunManager], canceller: int) -> None:
    """Reported failures 4 and 38: the cancel comes between the admission and the task."""
    run = await team[0].create_or_reject("t")
    assert await team[canceller].cancel(run.run_id, wait=5)
    agent = Agent()
    team[0].launch(run, agent)
    assert await team[0].wait(run.run_id, timeout=20) is None
    assert not agent.started.is_set()
    assert not await team[1].has_inflight("t")


@ANYWHERE
async def test_cancelled_queued_run_ends_at_once(team: list[RunManager], canceller: int) -> None:
    await running(team[1], "t")
    run, agent = await launched(team[0], "t", multitask_strategy="enqueue")
    assert await team[canceller].cancel(run.run_id, wait=5)
    assert await team[0].wait(run.run_id, timeout=20) is None
    assert not agent.started.is_set()


@ANYWHERE
async def test_cancel_during_the_write_of_the_start_wins(team: list[RunManager], canceller: int) -> None:
    """Reported failure 4: the agent's first line must not run."""
    held = hold_answers(team[0].store, "start")
    run, agent = await launched(team[0], "t")
    await held.reached.wait()
    assert await team[canceller].cancel(run.run_id)
    await run.abort_event.wait()
    held.go_on.set()
    assert await team[1].wait(run.run_id, timeout=20) is None
    assert not agent.started.is_set()


async def test_start_of_a_run_delivers_a_cancel_whose_hint_was_lost(team: list[RunManager]) -> None:
    a, b = team
    run = await a.create_or_reject("t")
    await b.store.decide(run.run_id, RunStatus.interrupted, action=CancelAction.interrupt, cause=Cause.user)
    await a.set_status(run.run_id, RunStatus.running)
    assert run.abort_event.is_set()
    assert run.status is RunStatus.interrupted


@ANYWHERE
async def test_cancel_is_idempotent(team: list[RunManager], canceller: int) -> None:
    """Reported failure 5: while the run unwinds and after its end."""
    run, agent = await running(team[0], "t", Agent(stubborn=True))
    assert await team[0].cancel(run.run_id, reason="first")
    assert await team[canceller].cancel(run.run_id, action="rollback", reason="second")
    await agent.cancelled.wait()
    agent.may_stop.set()
    assert await team[canceller].cancel(run.run_id, wait=5)
    assert await team[1 - canceller].cancel(run.run_id, wait=5)
    assert agent.cancels == 1
    receipt = await team[1].runs.receipt(run.run_id)
    assert (receipt.action, receipt.reason) == ("interrupt", "first")


@ANYWHERE
async def test_evicted_run_can_be_cancelled_again(team: list[RunManager], canceller: int) -> None:
    """Reported failure 5."""
    run, _ = await running(team[0], "t")
    assert await team[0].cancel(run.run_id, wait=5)
    await team[0].cleanup(run.run_id, delay=0)
    assert await team[canceller].cancel(run.run_id)


@ANYWHERE
async def test_finished_run_cannot_be_cancelled(team: list[RunManager], canceller: int) -> None:
    run = await team[0].create_or_reject("t")
    team[0].launch(run, quick)
    await team[0].wait(run.run_id, timeout=20)
    assert not await team[canceller].cancel(run.run_id)
    assert run.status is RunStatus.success


async def test_cancel_of_an_unknown_run_returns_false(team: list[RunManager]) -> None:
    assert not await team[0].cancel("no such run")


async def test_cancel_sets_updated_at_of_a_run_that_has_not_stopped(team: list[RunManager]) -> None:
    run, agent = await running(team[0], "t", Agent(stubborn=True))
    before = run.updated_at
    assert await team[0].cancel(run.run_id)
    await agent.cancelled.wait()
    assert run.updated_at > before
    agent.may_stop.set()


@ANYWHERE
async def test_cancel_with_wait_returns_when_the_task_has_stopped(
    team: list[RunManager], canceller: int
) -> None:
    """Reported failures 3 and 37: never when the cancel is merely committed."""
    run, agent = await running(team[0], "t", Agent(stubborn=True))
    with pytest.raises(NotSettled):
        await team[canceller].cancel(run.run_id, wait=0.2)
    assert run.status is RunStatus.interrupted
    assert agent.running
    agent.may_stop.set()
    assert await team[canceller].cancel(run.run_id, wait=5)
    assert agent.stopped.is_set()


async def test_cancel_with_a_lost_hint_is_delivered_by_the_next_tick(
    team: list[RunManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reported failure 2."""
    a, b = team
    run, agent = await running(a, "t")

    def lose(epoch: int, signal: Signal) -> None:
        """As a broker does whose listener is just reconnecting."""

    monkeypatch.setattr(assembly_of(b).shared.notifier, "notify_worker", lose)
    assert await b.cancel(run.run_id, wait=5)
    assert agent.stopped.is_set()


@ANYWHERE
async def test_cancel_of_a_run_whose_worker_drains_is_recorded(
    team: list[RunManager], canceller: int
) -> None:
    """Reported failure 7."""
    run, agent = await running(team[0], "t")
    leaving = asyncio.create_task(team[0].shutdown(timeout=20))
    await assembly_of(team[0]).shared.worker.drain_event.wait()
    assert await team[canceller].cancel(run.run_id, reason="now", wait=5)
    await leaving
    assert agent.cancels == 1
    assert (await team[1].runs.receipt(run.run_id)).reason == "now"


async def test_owner_stops_the_task_although_the_cancel_cannot_be_written(
    team: list[RunManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reported failure 8. When the store is back, the decision is written with its reason and action."""
    a, b = team
    await a.threads.replace_values("t", {"turn": 1})
    run, agent = await running(a, "t", Agent(saves={"turn": 2}, stubborn=True))
    decide, away = a.store.decide, asyncio.Event()

    async def unavailable(*args: Any, **kwargs: Any) -> Any:
        if away.is_set():
            raise StoreUnavailable("the disk is full")
        return await decide(*args, **kwargs)

    away.set()
    monkeypatch.setattr(a.store, "decide", unavailable)
    with pytest.raises(CancelNotDurable):
        await a.cancel(run.run_id, action="rollback", reason="enough")
    await agent.cancelled.wait()
    away.clear()
    agent.may_stop.set()
    assert await b.wait(run.run_id, timeout=20) is None
    receipt = await b.runs.receipt(run.run_id)
    assert (receipt.status, receipt.action, receipt.reason) == ("interrupted", "rollback", "enough")
    thread = await b.threads.get("t")
    assert thread.values == {"turn": 1}


async def test_cancel_continues_although_its_caller_was_cancelled(
    team: list[RunManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller is cancelled just after the commit."""
    a, _ = team
    run, agent = await running(a, "t")
    decide, committed = a.store.decide, asyncio.Event()

    async def slow_answer(*args: Any, **kwargs: Any) -> Any:
        decision = await decide(*args, **kwargs)
        committed.set()
        await asyncio.sleep(0)
        return decision

    monkeypatch.setattr(a.store, "decide", slow_answer)
    asking = asyncio.create_task(a.cancel(run.run_id))
    await committed.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert await a.wait(run.run_id, timeout=20) is None
    assert agent.cancels == 1


async def test_run_can_cancel_itself(team: list[RunManager]) -> None:
    a, b = team
    run = await a.create_or_reject("t")

    async def regretful(ctx: Any) -> None:
        await a.cancel(ctx.run.run_id, reason="never mind")
        await asyncio.Event().wait()

    a.launch(run, regretful)
    assert await b.wait(run.run_id, timeout=20) is None


@pytest.mark.settings(tick=3600.0, short_tick=3600.0)
async def test_waiting_run_cancelled_while_its_claim_is_unanswered_never_starts(
    team: list[RunManager],
) -> None:
    """The claim is committed, and its answer has not arrived when the cancel is delivered. No tick reports
    that the run holds the thread."""
    a, b = team
    first_run, first = await running(a, "t")
    run = await a.create_or_reject("t", multitask_strategy="enqueue")
    held = hold_answers(a.store, "claim", lambda claimed: claimed is not None)
    first.may_end.set()
    await a.wait(first_run.run_id, timeout=20)
    await held.reached.wait()
    a.launch(run, agent := Agent())
    assert await b.cancel(run.run_id)
    assert await a.cancel(run.run_id, wait=5)  # delivers it where no hint travels
    held.go_on.set()
    assert not await b.has_inflight("t")
    assert not agent.started.is_set()


@pytest.mark.settings(tick=3600.0, short_tick=3600.0)
async def test_run_cancelled_while_the_finish_that_started_it_is_unanswered_never_starts(
    team: list[RunManager],
) -> None:
    """The finish of the first run has given the thread to the second, and its answer has not arrived."""
    a, b = team
    first_run, first = await running(a, "t")
    run, agent = await launched(a, "t", multitask_strategy="enqueue")
    held = hold_answers(a.store, "finish", lambda finish: finish.claimed is not None)
    first.may_end.set()
    await held.reached.wait()
    assert await b.wait(first_run.run_id, timeout=20) is None
    assert await b.cancel(run.run_id)
    assert await a.cancel(run.run_id, wait=5)  # delivers it where no hint travels
    held.go_on.set()
    assert not await b.has_inflight("t")
    assert not agent.started.is_set()


async def test_cancel_with_wait_is_answered_although_the_run_was_removed(team: list[RunManager]) -> None:
    owner, other = team
    run, _ = await running(owner, "t")
    looking = hold_calls(other.store, "row")
    stopping = asyncio.create_task(other.cancel(run.run_id, wait=20))
    async with asyncio.timeout(10):
        await looking.reached.wait()
        await owner.wait(run.run_id)
        await owner.runs.delete(run.run_id, thread_id="t")
    looking.go_on.set()
    assert await stopping


async def test_end_of_run_set_to_interrupted_is_written_at_shutdown(
    team: list[RunManager], caplog: pytest.LogCaptureFixture
) -> None:
    """`set_status` decides without a cancel action. The shutdown cancels the task, which returns values."""
    owner, other = team
    started = asyncio.Event()

    async def agent(ctx: RunContext) -> Outcome:
        del ctx
        started.set()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        return Outcome(values={"a": 1})

    run = await owner.create_or_reject("t")
    owner.launch(run, agent)
    await started.wait()
    await owner.set_status(run.run_id, "interrupted")
    await owner.shutdown(timeout=0)
    assert await other.wait(run.run_id, timeout=20) is None
    assert (await other.runs.get(run.run_id)).settled
    assert not [line for line in caplog.messages if "was refused" in line]
