"""A run whose code has returned keeps its result: a drain does not decide it, even if the end is not written
yet."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from coordinator import RunContext, RunManager, RunStatus
from tests.support.held import hold_calls
from tests.support.inside import before_decisions_of_drain
from tests.support.teams import on_every_store
from tests.support.waiting import wait_until


class Returning:
    """Ignores cancels, and returns when the test releases it."""

    def __init__(self) -> None:
        self.started, self.may_end = asyncio.Event(), asyncio.Event()

    async def __call__(self, ctx: RunContext) -> str:
        self.started.set()
        while not self.may_end.is_set():
            try:
                await self.may_end.wait()
            except asyncio.CancelledError:
                await self.may_end.wait()
        return "done"


def at_its_decisions(manager: RunManager, which: int, act: Any) -> None:
    """Call `act` when a drain collects the runs that it has to decide for the `which`th time."""
    looks = 0

    async def act_once() -> None:
        nonlocal looks
        looks += 1
        if looks == which:
            await act()

    before_decisions_of_drain(manager, act_once)


async def settled(manager: RunManager, run_id: str) -> RunStatus:
    async def shows() -> bool:
        return (await manager.runs.explain(run_id)).run.settled

    await wait_until(shows, description="it has settled")
    return (await manager.runs.get(run_id)).status


@on_every_store
@pytest.mark.parametrize("which", [1, 2], ids=["before its grace", "after its unwinding"])
async def test_run_that_returns_at_the_decision_keeps_its_success(team: list[RunManager], which: int) -> None:
    """Its task is done, and its settlement has not begun."""
    a, b = team
    run, agent = await a.create_or_reject("t"), Returning()
    a.launch(run, agent)
    await agent.started.wait()

    async def returns() -> None:
        agent.may_end.set()
        await asyncio.sleep(0)
        assert run.task is not None
        assert run.task.done()

    at_its_decisions(a, which, returns)
    await a.worker.drain(grace=0)
    assert await settled(b, run.run_id) is run.status is RunStatus.success


async def test_run_that_returned_keeps_its_success_while_its_end_is_written(alone: RunManager) -> None:
    held = hold_calls(alone.store, "finish")
    run, agent = await alone.create_or_reject("t"), Returning()
    agent.may_end.set()
    alone.launch(run, agent)
    await held.reached.wait()
    await alone.worker.drain(grace=0)
    held.go_on.set()
    assert await settled(alone, run.run_id) is RunStatus.success


async def test_run_that_returned_keeps_its_success_while_tracked_work_continues(alone: RunManager) -> None:
    """The drain waits for tracked work no longer than for any other; the result is that of the run."""
    run, never = await alone.create_or_reject("t"), asyncio.get_running_loop().create_future()

    async def agent(ctx: RunContext) -> str:
        ctx.track(never)
        return "done"

    await asyncio.wait((alone.launch(run, agent),))
    await alone.worker.drain(grace=0)
    assert await settled(alone, run.run_id) is RunStatus.success
    assert await alone.wait(run.run_id, timeout=20) == "done"
    never.cancel()


async def test_callers_run_that_returned_keeps_the_end_that_is_reported_late(alone: RunManager) -> None:
    """The caller reports the end some turns of the loop after its task."""
    run = await alone.create_or_reject("t")

    async def work() -> str:
        await alone.set_status(run.run_id, RunStatus.running)
        return "done"

    async def reported() -> None:
        run.task = asyncio.create_task(work())
        await run.task
        await asyncio.sleep(0.03)
        await alone.set_status(run.run_id, RunStatus.success)

    caller = asyncio.create_task(reported())
    await wait_until(lambda: run.task is not None and run.task.done(), description="it has returned")
    await alone.worker.drain(grace=0)
    await caller
    assert run.status is RunStatus.success
    assert (await alone.runs.get(run.run_id)).status is RunStatus.success


async def test_callers_run_that_returned_unreported_is_interrupted(alone: RunManager) -> None:
    """The caller has had time to report an end: the run is interrupted, and the drain ends."""
    run = await alone.create_or_reject("t")

    async def work() -> None:
        await alone.set_status(run.run_id, RunStatus.running)

    run.task = asyncio.create_task(work())
    await asyncio.wait((run.task,))
    async with asyncio.timeout(20):
        await alone.worker.drain(grace=60)
    assert (await alone.runs.get(run.run_id)).status is RunStatus.interrupted
