"""The tracking executor: a thread job that outlives its run keeps the thread held, and is shown."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from coordinator import ConflictError, RunContext, RunManager, RunStatus
from tests.fundamentals.test_tracked_work import ThreadJob
from tests.support.agents import launched
from tests.support.inside import assembly_of
from tests.support.waiting import wait_until


@pytest.fixture
def job() -> Iterator[ThreadJob]:
    job = ThreadJob()
    yield job
    job.may_end.set()


@pytest.mark.parametrize("nested", [False, True], ids=["its own", "one of its job's"])
async def test_untracked_thread_job_keeps_the_thread_held(
    team: list[RunManager], job: ThreadJob, nested: bool
) -> None:
    """Reported failure 3, for code without `ctx.track`."""
    a, b = team
    a.worker.install_executor()
    loop = asyncio.get_running_loop()

    def outer() -> None:
        asyncio.run_coroutine_threadsafe(give_away(), loop).result(10)

    async def give_away() -> None:
        loop.run_in_executor(None, job)

    async def agent(ctx: RunContext) -> None:
        await asyncio.to_thread(outer if nested else job)
        await asyncio.Event().wait()

    run = await a.create_or_reject("t")
    task = a.launch(run, agent)
    await wait_until(job.begun.is_set, description="the thread has begun")
    assert await b.cancel(run.run_id)
    await wait_until(task.done, description="the task is over")
    _, new = await launched(b, "t", multitask_strategy="interrupt")
    assert (await b.runs.explain(run.run_id)).phase == "cancelling"
    health = await a.worker.health()
    assert (health.thread_jobs, health.outliving) == (1, (run.run_id,))
    assert not new.started.is_set()
    job.may_end.set()
    async with asyncio.timeout(20):
        await new.started.wait()
    assert job.over.is_set()
    health = await a.worker.health()
    assert (health.thread_jobs, health.outliving) == (0, ())


async def test_job_submitted_from_a_thread_belongs_to_the_run(team: list[RunManager], job: ThreadJob) -> None:
    a, _ = team
    a.worker.install_executor()
    executor = assembly_of(a).examination.executor
    assert executor is not None

    async def agent(ctx: RunContext) -> str:
        await asyncio.to_thread(lambda: executor.submit(job))
        return "done"

    run = await a.create_or_reject("t")
    await a.launch(run, agent)
    with pytest.raises(ConflictError):
        await a.create_or_reject("t")
    job.may_end.set()
    assert await a.wait(run.run_id, timeout=20) == "done"


async def test_queued_thread_job_is_dropped_with_its_run(alone: RunManager, job: ThreadJob) -> None:
    alone.worker.install_executor(1)
    began = threading.Event()
    blocking = asyncio.get_running_loop().run_in_executor(None, job)

    async def agent(ctx: RunContext) -> None:
        await asyncio.to_thread(began.set)

    run = await alone.create_or_reject("t")
    alone.launch(run, agent)

    async def queued() -> bool:
        return (await alone.worker.health()).thread_jobs == 2

    await wait_until(queued, description="it waits for the only thread")
    assert await alone.cancel(run.run_id, wait=5)
    job.may_end.set()
    await blocking
    assert not began.is_set()


async def test_endless_thread_job_is_forced_and_counted(alone: RunManager, job: ThreadJob) -> None:
    alone.worker.install_executor(1)

    async def agent(ctx: RunContext) -> str:
        asyncio.get_running_loop().run_in_executor(None, job)
        return "done"

    run = await alone.create_or_reject("t")
    alone.launch(run, agent)
    assert await alone.wait(run.run_id, timeout=10) == "done"
    assert run.status is RunStatus.success
    health = await alone.worker.health()
    assert health.outliving == (run.run_id,)
    assert not health.ready
    assert any("threads" in complaint for complaint in health.why_not)
    job.may_end.set()
    await wait_until(lambda: not job_count(alone), description="the job is over")
    assert (await alone.worker.health()).ready


def job_count(manager: RunManager) -> int:
    executor = assembly_of(manager).examination.executor
    assert executor is not None
    return executor.jobs


async def test_thread_job_outside_of_runs_belongs_to_no_run(alone: RunManager, job: ThreadJob) -> None:
    assert (await alone.worker.health()).thread_jobs is None
    alone.worker.install_executor()
    waiting = asyncio.get_running_loop().run_in_executor(None, job)
    health = await alone.worker.health()
    assert (health.thread_jobs, health.outliving) == (1, ())
    job.may_end.set()
    assert await waiting == "from the thread"


async def test_settled_run_is_not_held_by_remaining_jobs(alone: RunManager, job: ThreadJob) -> None:
    """A task that the run's code has left behind (a client's pool) inherits the run's context."""
    alone.worker.install_executor()
    go_on, left = asyncio.Event(), list[asyncio.Task[None]]()

    async def later() -> None:
        await go_on.wait()
        await asyncio.to_thread(job)

    async def agent(ctx: RunContext) -> None:
        left.append(asyncio.ensure_future(later()))

    run = await alone.create_or_reject("t")
    alone.launch(run, agent)
    await alone.wait(run.run_id, timeout=20)
    go_on.set()
    await wait_until(job.begun.is_set, description="the job executes outside of any run")
    await alone.create_or_reject("t")
    job.may_end.set()
    await left[0]


async def test_executor_has_the_requested_number_of_threads(alone: RunManager) -> None:
    alone.worker.install_executor(3)
    executor = assembly_of(alone).examination.executor
    assert executor is not None
    assert executor.size == 3
    names = await asyncio.gather(
        *(asyncio.to_thread(lambda: threading.current_thread().name) for _ in range(9))
    )
    assert len(set(names)) <= 3
    assert all(name.startswith("coordinator") for name in names)
