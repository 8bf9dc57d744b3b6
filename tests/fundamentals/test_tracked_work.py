"""A task may end before its work: work that is given to `ctx.track` keeps the thread held."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from coordinator import ConflictError, RunContext, RunManager, RunStatus
from tests.support.agents import launched
from tests.support.waiting import wait_until


class ThreadJob:
    """Work in a thread, which nothing can cancel."""

    def __init__(self) -> None:
        self.begun, self.may_end, self.over = threading.Event(), threading.Event(), threading.Event()

    def __call__(self) -> str:
        self.begun.set()
        self.may_end.wait(20)
        self.over.set()
        return "from the thread"


async def test_tracked_thread_job_holds_the_thread_after_the_cancelled_task(team: list[RunManager]) -> None:
    """Reported failure 3: `cancelled` is not `stopped` while a thread works for the run."""
    a, b = team
    job, run = ThreadJob(), await a.create_or_reject("t")

    async def agent(ctx: RunContext) -> Any:
        return await ctx.track(asyncio.get_running_loop().run_in_executor(None, job))

    task = a.launch(run, agent)
    await asyncio.to_thread(job.begun.wait, 10)
    assert await b.cancel(run.run_id)
    await wait_until(task.done, description="the task is over")
    _, new = await launched(b, "t", multitask_strategy="interrupt")
    assert (await b.runs.explain(run.run_id)).phase == "cancelling"
    assert not new.started.is_set()
    job.may_end.set()
    async with asyncio.timeout(20):
        await new.started.wait()
    assert job.over.is_set()


async def test_reject_is_answered_at_once_during_tracked_work(team: list[RunManager]) -> None:
    a, _ = team
    job, run = ThreadJob(), await a.create_or_reject("t")

    async def agent(ctx: RunContext) -> str:
        ctx.track(asyncio.get_running_loop().run_in_executor(None, job))
        return "done"

    task = a.launch(run, agent)
    await task
    with pytest.raises(ConflictError):
        async with asyncio.timeout(0.5):
            await a.create_or_reject("t")
    async with asyncio.timeout(0.5):
        assert await a.cancel(run.run_id), "nothing was decided yet, so a cancel still wins"
    job.may_end.set()
    assert await a.wait(run.run_id, timeout=20) is None


async def test_result_is_kept_until_tracked_work_has_ended(team: list[RunManager]) -> None:
    a, b = team
    run, work = await a.create_or_reject("t"), asyncio.Event()

    async def agent(ctx: RunContext) -> str:
        ctx.track(asyncio.ensure_future(work.wait()))
        return "done"

    a.launch(run, agent)
    with pytest.raises(TimeoutError):
        await b.wait(run.run_id, timeout=0.2)
    work.set()
    assert await b.wait(run.run_id, timeout=20) == "done"


async def test_endless_tracked_work_costs_the_fence_but_not_the_result(
    team: list[RunManager],
) -> None:
    """Bounded by `force_after`."""
    a, b = team
    job, run = ThreadJob(), await a.create_or_reject("t")

    async def agent(ctx: RunContext) -> str:
        ctx.track(asyncio.get_running_loop().run_in_executor(None, job))
        return "done"

    a.launch(run, agent)
    assert await b.wait(run.run_id, timeout=10) == "done"
    assert await a.wait(run.run_id, timeout=10) == "done"
    assert run.status is RunStatus.success
    assert not job.over.is_set()
    assert [step.what for step in (await b.runs.explain(run.run_id)).transitions][-2:] == [
        "fenced",
        "finished",
    ]
    job.may_end.set()


async def test_failure_of_tracked_work_does_not_fail_the_run(team: list[RunManager]) -> None:
    a, _ = team
    run = await a.create_or_reject("t")

    async def fail() -> None:
        raise RuntimeError("in the background")

    async def agent(ctx: RunContext) -> str:
        ctx.track(asyncio.ensure_future(fail()))
        return "done"

    a.launch(run, agent)
    assert await a.wait(run.run_id, timeout=20) == "done"


async def test_cancelled_wait_does_not_cancel_tracked_work(team: list[RunManager]) -> None:
    a, _ = team
    run, finished = await a.create_or_reject("t"), asyncio.Event()

    async def write() -> None:
        await asyncio.sleep(0.05)
        finished.set()

    agent_waits = asyncio.Event()

    async def agent(ctx: RunContext) -> None:
        waiting = ctx.track(asyncio.ensure_future(write()))
        agent_waits.set()
        await waiting

    a.launch(run, agent)
    await agent_waits.wait()
    assert await a.cancel(run.run_id, wait=5)
    assert finished.is_set()
