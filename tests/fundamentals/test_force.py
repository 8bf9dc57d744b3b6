"""A task that does not stop is fenced and settled by force. Then it is not cancelled again, and
cannot write."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from coordinator import RunContext, RunManager, RunRecord, RunStatus, StaleFence
from coordinator.telemetry import Event
from coordinator.telemetry.events import RunEmitted, RunForced, RunStopped
from stores.rows import Ownership
from tests.support.agents import Agent, launched, running
from tests.support.held import hold_answers
from tests.support.inside import add_hook, assembly_of
from tests.support.teams import team_of
from tests.support.waiting import wait_until


@pytest.fixture
async def impatient(tmp_path: Path) -> AsyncGenerator[list[RunManager]]:
    """Two workers that wait 0.2 s for a task to stop."""
    async with team_of(2, tmp_path, force_after=0.2) as managers:
        await managers[0].threads.replace_values("t", {"by": "before"})
        yield managers


def events_of(manager: RunManager) -> list[Event]:
    events: list[Event] = []
    add_hook(manager, events.append)
    return events


class Deaf:
    """Swallows every cancel, and continues when the test releases it."""

    def __init__(self) -> None:
        self.begun, self.release = asyncio.Event(), asyncio.Event()
        self.cancels = 0
        self.when_forced = 0

    def forced(self) -> None:
        """From now on no further cancel is expected; any is counted."""
        self.when_forced = self.cancels
        assert self.cancels >= 1

    async def ignore(self) -> None:
        self.begun.set()
        while not self.release.is_set():
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.cancels += 1
                task = asyncio.current_task()
                assert task is not None
                task.uncancel()  # as asyncio.timeout does: nothing shows any more that it was cancelled


async def values(manager: RunManager) -> Any:
    thread = await manager.threads.get("t")
    return thread.values


async def test_task_that_ignores_its_cancel_is_settled_counted_and_shown(
    impatient: list[RunManager], caplog: pytest.LogCaptureFixture
) -> None:
    a, b = impatient
    events, agent = events_of(a), Agent(stubborn=True)
    run, _ = await running(a, "t", agent)
    assert await b.cancel(run.run_id, wait=5)
    assert (a.worker.forced, b.worker.forced, agent.cancels) == (1, 0, 1)
    [forced] = [event for event in events if isinstance(event, RunForced)]
    assert "await self.may_stop.wait()" in forced.stack, "where it stands"
    assert "ignored its cancel for" in caplog.text
    assert "await self.may_stop.wait()" in caplog.text
    explained = await b.runs.explain(run.run_id)
    assert [step.what for step in explained.transitions][-2:] == ["fenced", "settled"]
    assert explained.run.fence == agent.ctx.fence + 1
    receipt = await b.runs.receipt(run.run_id)
    assert receipt.settled is not None
    assert receipt.stopped is None, "it never did"
    agent.may_stop.set()
    await agent.stopped.wait()
    assert agent.cancels == 1


async def test_time_in_which_the_loop_is_blocked_is_not_taken_from_the_task(
    impatient: list[RunManager],
) -> None:
    """Its code loses the first cancel and blocks the loop until the time to stop is over; the second cancel
    stops it."""
    a, begun = impatient[0], asyncio.Event()

    async def blocks(ctx: RunContext) -> None:
        del ctx
        begun.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        time.sleep(0.5)  # noqa: ASYNC251 - a loop that is blocked is the subject
        await asyncio.Event().wait()

    run = await a.create_or_reject("t")
    task = a.launch(run, blocks)
    await begun.wait()
    assert await a.cancel(run.run_id, wait=5)
    await asyncio.wait((task,), timeout=5)
    assert task.done()
    assert a.worker.forced == 0


async def test_forced_run_is_overdue_in_health_until_its_task_has_stopped(
    impatient: list[RunManager], caplog: pytest.LogCaptureFixture
) -> None:
    a, b = impatient
    events = events_of(a)
    run, agent = await running(a, "t", Agent(stubborn=True), assistant_id="slow")
    assert (await a.worker.health()).overdue == ()
    assert await b.cancel(run.run_id, wait=5)
    [shown] = (await a.worker.health()).overdue
    assert f"run {run.run_id!r} of assistant 'slow' on thread 't' has not stopped" in shown
    assert " s after its cancel" in shown
    assert (await b.worker.health()).overdue == ()
    for part in ("of assistant 'slow'", "has to end at CancelledError", "a restart of this worker ends it"):
        assert part in caplog.text
    with caplog.at_level("INFO"):
        agent.may_stop.set()
        await agent.stopped.wait()
        await wait_until(lambda: any(isinstance(one, RunStopped) for one in events), description="it stopped")
    assert (await a.worker.health()).overdue == ()
    assert f"run {run.run_id!r} on thread 't' has stopped" in caplog.text


async def test_forced_run_is_overdue_until_its_thread_job_has_ended(impatient: list[RunManager]) -> None:
    [a, _], may_end = impatient, threading.Event()
    job_begun = asyncio.Event()

    async def agent(ctx: RunContext) -> None:
        job = ctx.track(asyncio.get_running_loop().run_in_executor(None, may_end.wait))
        job_begun.set()
        await job

    run = await a.create_or_reject("t")
    a.launch(run, agent)
    await job_begun.wait()
    try:
        assert await a.cancel(run.run_id, wait=5)
        assert run.task is None or run.task.done()
        [shown] = (await a.worker.health()).overdue
        assert repr(run.run_id) in shown
    finally:
        may_end.set()

    async def over() -> bool:
        return (await a.worker.health()).overdue == ()

    await wait_until(over, description="the job has ended")


async def test_forced_block_is_overdue_until_it_is_left(impatient: list[RunManager]) -> None:
    """Its task is its caller's, and lives on."""
    a, deaf = impatient[0], Deaf()
    may_return, left = asyncio.Event(), asyncio.Event()
    run = await a.create_or_reject("t")

    async def callers_code() -> None:
        async with a.running(run):
            await deaf.ignore()
        left.set()
        await may_return.wait()

    task = asyncio.create_task(callers_code())
    await deaf.begun.wait()
    assert await a.cancel(run.run_id, wait=5)
    [shown] = (await a.worker.health()).overdue
    assert repr(run.run_id) in shown
    deaf.release.set()
    await left.wait()
    assert (await a.worker.health()).overdue == ()
    may_return.set()
    await task


async def test_context_of_a_forced_run_refuses_every_call(impatient: list[RunManager]) -> None:
    a, b = impatient
    deaf, late, over = Deaf(), dict[str, str](), asyncio.Event()
    events = events_of(a)
    run = await a.create_or_reject("t")

    async def agent(ctx: RunContext) -> str:
        await deaf.ignore()
        writes: dict[str, Any] = {
            "save": lambda: ctx.save({"by": "zombie"}),
            "emit": lambda: ctx.emit("custom", "zombie"),
        }
        for name, write in writes.items():
            try:
                await write()
            except StaleFence:
                late[name] = "refused"
        for name, call in {"progress": lambda: ctx.progress(llm_call_count=99), "check": ctx.check}.items():
            try:
                call()
            except StaleFence:
                late[name] = "refused"
        over.set()
        return "zombie"

    a.launch(run, agent)
    await deaf.begun.wait()
    assert await b.cancel(run.run_id, wait=5)
    deaf.forced()
    new, next_agent = await running(b, "t", Agent(saves={"by": "new"}))
    deaf.release.set()
    await over.wait()
    assert late == dict.fromkeys(("save", "emit", "progress", "check"), "refused")
    assert not [event for event in events if isinstance(event, RunEmitted)]
    assert await values(b) == {"by": "new"}
    row = (await b.runs.explain(run.run_id)).run
    assert (row.status, row.result, row.counters["llm_call_count"]) == (RunStatus.interrupted, None, 0)
    assert deaf.cancels == deaf.when_forced
    next_agent.may_end.set()
    await b.wait(new.run_id, timeout=20)


async def test_run_forced_during_the_write_of_its_start_does_not_begin(impatient: list[RunManager]) -> None:
    """Its turn comes at the very end of a drain."""
    a, b = impatient
    held = hold_answers(a.store, "start")
    run, agent = await launched(a, "t")
    await held.reached.wait()
    entry = assembly_of(a).shared.registry.entry(run.run_id)
    assert entry is not None
    assembly_of(a).runs.settlement.force(entry)
    async with asyncio.timeout(20):
        await entry.settled.wait()
    held.go_on.set()
    assert run.task is not None
    async with asyncio.timeout(20):
        await asyncio.wait((run.task,))
    assert not agent.started.is_set()
    assert run.status is (await b.runs.get(run.run_id)).status is RunStatus.error
    assert not await a.has_inflight("t")


async def test_thread_job_that_ends_after_the_force_changes_nothing(impatient: list[RunManager]) -> None:
    """Its coroutine ended long before; calls of the job through the loop are refused as well."""
    a, b = impatient
    begun, may_end, outcomes = threading.Event(), threading.Event(), dict[str, str]()
    run, loop = await a.create_or_reject("t"), asyncio.get_running_loop()

    async def agent(ctx: RunContext) -> None:
        def job() -> None:
            begun.set()
            may_end.wait(20)
            for name, late in {"save": ctx.save({"by": "zombie"}), "emit": ctx.emit("custom", 1)}.items():
                try:
                    asyncio.run_coroutine_threadsafe(late, loop).result(5)
                except StaleFence:
                    outcomes[name] = "refused"

        await ctx.track(loop.run_in_executor(None, job))

    a.launch(run, agent)
    await asyncio.to_thread(begun.wait, 10)
    assert await b.cancel(run.run_id, wait=5)
    assert a.worker.forced == 1
    new, next_agent = await running(b, "t")
    may_end.set()
    await wait_until(lambda: len(outcomes) == 2, description="the job has tried")
    assert outcomes == {"save": "refused", "emit": "refused"}
    assert await values(b) == {"by": "before"}
    next_agent.may_end.set()
    await b.wait(new.run_id, timeout=20)


async def test_write_checked_before_the_force_is_refused_by_its_fence(impatient: list[RunManager]) -> None:
    """The store itself refuses the old fence, whatever the process knows."""
    a, b = impatient
    agent = Agent(stubborn=True)
    run, _ = await running(a, "t", agent)
    own = Ownership(run.run_id, "t", a.worker.epoch, agent.ctx.fence)
    assert await b.cancel(run.run_id, wait=5)
    with pytest.raises(StaleFence):
        await a.store.save(own, {"by": "zombie"})
    agent.may_stop.set()
    await agent.stopped.wait()


async def own_task(manager: RunManager, deaf: Deaf) -> RunRecord:
    """A run whose caller made the task itself, and then reports as if nothing had happened."""
    run = await manager.create_or_reject("t")

    async def work() -> None:
        await manager.set_status(run.run_id, RunStatus.running)
        await deaf.ignore()
        await manager.update_run_progress(run.run_id, llm_call_count=99)
        await manager.update_run_completion(run.run_id, status="success", total_tokens=99)
        await manager.update_run_completion(run.run_id, total_tokens=99, error="zombie")
        await manager.update_model_name(run.run_id, "zombie")
        await manager.set_status(run.run_id, RunStatus.running)
        await manager.set_status(run.run_id, RunStatus.success)

    run.task = asyncio.create_task(work())
    await deaf.begun.wait()
    return run


@pytest.mark.parametrize("forgotten", [False, True], ids=["in memory", "forgotten"])
async def test_callers_task_that_ignores_its_cancel_is_forced(
    impatient: list[RunManager], forgotten: bool
) -> None:
    a, b = impatient
    deaf = Deaf()
    run = await own_task(a, deaf)
    assert await b.cancel(run.run_id, wait=5)
    assert a.worker.forced == 1
    deaf.forced()
    task = run.task
    assert task is not None
    if forgotten:
        await a.cleanup(run.run_id, delay=0)
    deaf.release.set()
    await asyncio.wait([task])
    assert not task.cancelled()
    assert task.exception() is None, "its calls are refused, not answered with errors"
    assert deaf.cancels == deaf.when_forced
    row = (await b.runs.explain(run.run_id)).run
    assert (row.status, row.error, row.model_name) == (RunStatus.interrupted, None, None)
    assert row.counters["llm_call_count"] == 0
    if not forgotten:
        assert row.counters["total_tokens"] == 0
        assert (run.status, run.total_tokens, run.model_name) == (RunStatus.interrupted, 0, None)


async def test_callers_task_that_starts_after_its_cancel_is_not_cancelled_again(
    impatient: list[RunManager],
) -> None:
    """The task swallows every cancel before its start: `start` returns False, and no further
    cancel follows."""
    a, b = impatient
    run, deaf = await a.create_or_reject("t"), Deaf()
    answers: list[bool] = []

    async def work() -> None:
        await deaf.ignore()
        answers.append(await a.start(run.run_id))

    run.task = asyncio.create_task(work())
    await deaf.begun.wait()
    assert await b.cancel(run.run_id, wait=5)
    deaf.forced()
    deaf.release.set()
    await run.task
    assert (answers, deaf.cancels) == ([False], deaf.when_forced)
