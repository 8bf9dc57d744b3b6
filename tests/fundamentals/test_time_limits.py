"""Limits for running, for silence and for queueing. A run that exceeds one ends like a cancelled run, with
status `timeout`."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from coordinator import RunContext, RunFailed, RunManager, RunStatus, StoreUnavailable
from coordinator.runs.work import PARTS
from tests.support.agents import Agent, launched, quick, running
from tests.support.builders import sql_of
from tests.support.held import hold_calls
from tests.support.inside import assembly_of, jobs_of
from tests.support.teams import team_of
from tests.support.waiting import wait_until

SOON, NEVER = 0.15, 60.0


async def ended(manager: RunManager, run_id: str) -> tuple[str, str | None]:
    """Status and cause, as the store has them once the run has settled."""
    with pytest.raises(RunFailed, match="timeout"):
        await manager.wait(run_id, timeout=20)
    row = (await manager.runs.explain(run_id)).run
    return row.status.value, row.cancel_cause and row.cancel_cause.value


async def test_run_that_exceeds_its_timeout_ends_as_timeout(team: list[RunManager]) -> None:
    a, b = team
    run, agent = await running(a, "t", timeout=SOON)
    assert await ended(b, run.run_id) == ("timeout", "timeout")
    assert agent.cancels == 1
    assert agent.ctx.abort is not None
    assert (agent.ctx.abort.cause, agent.ctx.abort.status) == ("timeout", RunStatus.timeout)
    assert run.error == "it ran for longer than its time limit"
    assert not await b.has_inflight("t")


@pytest.mark.parametrize(
    ("limit", "cause"), [({"timeout": SOON}, "timeout"), ({"idle_timeout": SOON}, "idle")]
)
async def test_tracked_work_counts_against_the_time_limits(
    tmp_path: Path, limit: dict[str, Any], cause: str
) -> None:
    """The code has returned, and the thread is not free: its own worker and the tick of another one, which
    does not have the code, agree."""
    never = asyncio.get_running_loop().create_future()

    async def agent(ctx: RunContext) -> str:
        ctx.track(never)
        return "done"

    async with team_of(1, tmp_path, tick=NEVER, short_tick=NEVER) as (manager,):
        run = await manager.create_or_reject("t", **limit)
        manager.launch(run, agent)
        assert await ended(manager, run.run_id) == ("timeout", cause)
    never.cancel()


async def test_timeout_counts_from_the_start(team: list[RunManager]) -> None:
    a, _ = team
    holder, first = await running(a, "t")
    run, agent = await launched(a, "t", multitask_strategy="enqueue", timeout=SOON)
    await asyncio.sleep(SOON * 2)  # time passes, and nothing of it counts
    assert run.status is RunStatus.pending
    first.may_end.set()
    await agent.started.wait()
    assert await ended(a, run.run_id) == ("timeout", "timeout")
    assert holder.status is RunStatus.success


async def test_run_that_exceeds_its_idle_timeout_ends_as_timeout(team: list[RunManager]) -> None:
    a, b = team
    run, agent = await running(a, "t", idle_timeout=SOON, timeout=NEVER)
    assert await ended(b, run.run_id) == ("timeout", "idle")
    assert agent.cancels == 1


@pytest.mark.parametrize("sign", ["event", "save", "progress"])
async def test_events_saves_and_progress_reset_the_idle_timeout(alone: RunManager, sign: str) -> None:
    signs, silent = 0, asyncio.Event()

    async def agent(ctx: RunContext) -> None:
        nonlocal signs
        for _ in range(10):
            await asyncio.sleep(0.04)
            if sign == "event":
                await ctx.emit("custom", signs)
            elif sign == "save":
                await ctx.save({"n": signs})
            else:
                ctx.progress(llm_call_count=signs)
            signs += 1
        silent.set()
        await asyncio.Event().wait()

    run = await alone.create_or_reject("t", idle_timeout=0.3)
    alone.launch(run, agent)
    assert await ended(alone, run.run_id) == ("timeout", "idle")
    assert silent.is_set(), "it was let live for longer than its idle limit, as long as it spoke"
    assert signs == 10


async def test_progress_of_a_callers_task_resets_the_idle_timeout(alone: RunManager) -> None:
    run = await alone.create_or_reject("t", idle_timeout=0.3)
    spoke = asyncio.Event()

    async def work() -> None:
        await alone.set_status(run.run_id, RunStatus.running)
        for count in range(10):
            await asyncio.sleep(0.04)
            await alone.update_run_progress(run.run_id, llm_call_count=count)
        spoke.set()
        await asyncio.Event().wait()

    run.task = asyncio.create_task(work())
    assert await ended(alone, run.run_id) == ("timeout", "idle")
    assert spoke.is_set()
    assert run.task.cancelled()


async def test_time_in_which_the_loop_is_blocked_is_not_idle(alone: RunManager) -> None:
    """What the run waits for arrives meanwhile, and it gives a sign of life as soon as it is executed."""
    waits = asyncio.Event()

    async def agent(ctx: RunContext) -> str:
        waits.set()
        await asyncio.sleep(0.01)
        await ctx.emit("custom", "arrived")
        return "done"

    run = await alone.create_or_reject("t", idle_timeout=0.3)
    alone.launch(run, agent)
    await waits.wait()
    time.sleep(0.5)  # noqa: ASYNC251 - code of another run that blocks the loop
    assert await alone.wait(run.run_id, timeout=20) == "done"


async def test_run_that_exceeds_its_queue_timeout_ends_as_timeout(team: list[RunManager]) -> None:
    a, b = team
    _, holder = await running(b, "t")
    run, agent = await launched(a, "t", multitask_strategy="enqueue", queue_timeout=SOON)
    assert await ended(b, run.run_id) == ("timeout", "queue_timeout")
    assert not agent.started.is_set()
    assert holder.running


async def test_queue_timeout_ends_with_the_turn(alone: RunManager) -> None:
    _, first = await running(alone, "t")
    run, agent = await launched(alone, "t", multitask_strategy="enqueue", queue_timeout=0.3)
    first.may_end.set()
    await agent.started.wait()
    await asyncio.sleep(0.4)  # the limit of its wait passes: that it has no effect is what is tested
    assert run.status is RunStatus.running
    agent.may_end.set()
    await alone.wait(run.run_id, timeout=20)


@pytest.mark.parametrize("answered", [True, False])
async def test_turn_at_the_moment_of_the_queue_timeout_wins(
    alone: RunManager, monkeypatch: pytest.MonkeyPatch, answered: bool
) -> None:
    """The timer has fired, and the run gets its thread before the decision is written."""
    _, first = await running(alone, "t")
    decide, reached, go_on = alone.store.decide, asyncio.Event(), asyncio.Event()

    async def slowly(*args: Any, **kwargs: Any) -> Any:
        reached.set()
        await go_on.wait()
        if not answered:
            raise StoreUnavailable("it is away")
        return await decide(*args, **kwargs)

    monkeypatch.setattr(alone.store, "decide", slowly)
    run, agent = await launched(alone, "t", multitask_strategy="enqueue", queue_timeout=SOON)
    await reached.wait()
    first.may_end.set()
    await agent.started.wait()
    go_on.set()
    await wait_until(lambda: not jobs_of(alone), description="the timer's job is over")
    assert run.status is RunStatus.running
    agent.may_end.set()
    await alone.wait(run.run_id, timeout=20)


async def test_end_before_the_timeout_wins(alone: RunManager) -> None:
    held = hold_calls(alone.store, "decide")
    run, agent = await running(alone, "t", Agent(returns="done"), timeout=SOON)
    await held.reached.wait()
    agent.may_end.set()
    assert await alone.wait(run.run_id, timeout=20) == "done"
    held.go_on.set()
    await wait_until(lambda: not jobs_of(alone), description="the timer's job is over")
    assert run.status is RunStatus.success
    assert (await alone.runs.receipt(run.run_id)).cause is None


async def test_timeout_stops_the_task_although_it_cannot_be_written(
    alone: RunManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide, away = alone.store.decide, asyncio.Event()
    away.set()

    async def unavailable(*args: Any, **kwargs: Any) -> Any:
        if away.is_set():
            raise StoreUnavailable("the disk is full")
        return await decide(*args, **kwargs)

    monkeypatch.setattr(alone.store, "decide", unavailable)
    run, agent = await running(alone, "t", timeout=SOON)
    await agent.cancelled.wait()
    away.clear()
    assert await ended(alone, run.run_id) == ("timeout", "timeout")


async def test_tick_of_any_worker_ends_overdue_runs(team: list[RunManager]) -> None:
    """As after a restart: the timers of the run are gone, its row is not."""
    a, b = team
    run, agent = await running(b, "t", timeout=1)
    entry = assembly_of(b).shared.registry.entry(run.run_id)
    assert entry is not None
    assert entry.open
    entry.stop_timers()
    assert await ended(a, run.run_id) == ("timeout", "timeout")
    assert agent.cancels == 1


async def test_queue_timeout_ends_a_run_whose_home_is_gone(tmp_path: Path) -> None:
    """A portable run outlives its home, but not its queue limit."""
    async with team_of(2, tmp_path) as (a, b):
        await running(b, "t")
        run = await a.create_or_reject("t", multitask_strategy="enqueue", queue_timeout=1)
        sql_of(a.store)("UPDATE runs SET portable = 1 WHERE run_id = ?", run.run_id)
        await a.worker.drain(grace=0)
        await a.aclose()
        assert (await b.runs.explain(run.run_id)).run.open
        assert await ended(b, run.run_id) == ("timeout", "queue_timeout")


async def test_time_limits_default_to_the_settings(tmp_path: Path) -> None:
    async with team_of(1, tmp_path, run_timeout=SOON, queue_timeout=NEVER) as (manager,):
        run, _ = await running(manager, "t")
        assert await ended(manager, run.run_id) == ("timeout", "timeout")
        endless, agent = await running(manager, "t", timeout=None)
        row = (await manager.runs.explain(endless.run_id)).run
        assert (row.timeout_ms, row.deadline_at) == (None, None)
        agent.may_end.set()
        await manager.wait(endless.run_id, timeout=20)


async def test_time_limits_apply_to_create(alone: RunManager) -> None:
    run = await alone.create("t", timeout=SOON)
    agent = Agent()
    alone.launch(run, agent)
    assert await ended(alone, run.run_id) == ("timeout", "timeout")


async def test_timer_is_cancelled_with_its_run(alone: RunManager) -> None:
    run = await alone.create_or_reject("t", timeout=NEVER, idle_timeout=NEVER)
    entry = assembly_of(alone).shared.registry.entry(run.run_id)
    assert entry is not None
    alone.launch(run, quick)
    await alone.wait(run.run_id, timeout=20)
    assert entry.timers is None


async def test_timers_of_both_limits_are_cancelled_when_the_run_is_over(
    alone: RunManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A remaining timer would keep the run in memory until it is due."""
    loop = asyncio.get_running_loop()
    call_later, made = loop.call_later, list[asyncio.TimerHandle]()

    def recorded(delay: float, callback: Any, *args: Any, **more: Any) -> asyncio.TimerHandle:
        handle = call_later(delay, callback, *args, **more)
        if delay in (NEVER, 2 * NEVER / PARTS):
            made.append(handle)
        return handle

    monkeypatch.setattr(loop, "call_later", recorded)
    run, agent = await running(alone, "t", timeout=NEVER, idle_timeout=2 * NEVER)
    assert [handle.cancelled() for handle in made] == [False, False]
    agent.may_end.set()
    await alone.wait(run.run_id, timeout=20)
    assert [handle.cancelled() for handle in made] == [True, True]
