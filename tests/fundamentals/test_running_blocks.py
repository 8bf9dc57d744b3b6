"""`manager.running`: a block of the caller's own task is the code of the run. The thread is held until the
block was left, even if the task continues, and no longer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

import pytest

from coordinator import (
    Event,
    InvalidArgument,
    RunFailed,
    RunManager,
    RunNotStarted,
    RunRecord,
    RunStatus,
    StaleFence,
    current_run,
)
from tests.support.agents import Agent, launched, running
from tests.support.teams import on_every_store
from tests.support.waiting import wait_until


class Block:
    """A caller's task. Its block is an `Agent`; after the block, the task continues until `may_go`."""

    def __init__(
        self, manager: RunManager, record: RunRecord, agent: Agent | None = None, **how: Any
    ) -> None:
        self.agent = agent or Agent()
        self.left, self.may_go = asyncio.Event(), asyncio.Event()
        self.error: BaseException | None = None
        self.task = asyncio.get_running_loop().create_task(self._run(manager, record, how))

    async def _run(self, manager: RunManager, record: RunRecord, how: dict[str, Any]) -> None:
        try:
            async with manager.running(record, **how) as ctx:
                await self.agent(ctx)
        except BaseException as error:  # noqa: BLE001 - looked at by the tests; the task continues
            self.error = error
        self.left.set()
        await self.may_go.wait()

    async def over(self) -> None:
        async with asyncio.timeout(10):
            await self.left.wait()

    async def end(self) -> None:
        self.may_go.set()
        await self.task


async def entered(manager: RunManager, thread_id: str, agent: Agent | None = None, **admission: Any) -> Any:
    """Returns a run with its block, which was entered."""
    record = await manager.create_or_reject(thread_id, **admission)
    block = Block(manager, record, agent)
    async with asyncio.timeout(10):
        await block.agent.started.wait()
    return record, block


@on_every_store
async def test_block_starts_its_run_and_settles_it_while_the_task_goes_on(team: list[RunManager]) -> None:
    a, b = team
    record, block = await entered(a, "t")
    assert (await b.runs.get(record.run_id)).status == "running"
    assert record.task is block.task
    block.agent.may_end.set()
    await block.over()
    assert not block.task.done()
    assert (await b.runs.get(record.run_id)).settled
    assert record.status is RunStatus.success
    assert record.task is None
    await running(b, "t")
    await block.end()


@on_every_store
async def test_cancel_of_another_worker_reaches_the_block_and_the_thread_is_held_until_it_is_left(
    team: list[RunManager],
) -> None:
    a, b = team
    record, block = await entered(a, "t", Agent(stubborn=True))
    assert await b.cancel(record.run_id, reason="enough")
    async with asyncio.timeout(10):
        await block.agent.cancelled.wait()
    assert block.agent.ctx.abort_event.is_set()
    assert block.agent.ctx.abort is not None
    assert block.agent.ctx.abort.reason == "enough"
    _, following = await launched(b, "t", multitask_strategy="enqueue")
    assert (await b.runs.explain(record.run_id)).phase == "cancelling"
    assert not following.started.is_set()
    block.agent.may_stop.set()
    async with asyncio.timeout(10):
        await following.started.wait()
    await block.over()
    assert isinstance(block.error, asyncio.CancelledError)
    await block.end()
    assert block.agent.cancels == 1


async def test_block_of_a_queued_run_is_entered_when_the_thread_is_free(team: list[RunManager]) -> None:
    a, b = team
    _, first = await running(b, "t")
    record = await a.create_or_reject("t", multitask_strategy="enqueue")
    block = Block(a, record)
    await asyncio.sleep(0)
    assert not block.agent.started.is_set()
    first.may_end.set()
    async with asyncio.timeout(10):
        await block.agent.started.wait()
    block.agent.may_end.set()
    await block.over()
    assert record.status is RunStatus.success
    await block.end()


@pytest.mark.parametrize("how", ["cancel", "raise"])
async def test_cancel_before_the_block_cancels_the_task_or_raises(team: list[RunManager], how: str) -> None:
    a, b = team
    _, first = await running(b, "t")
    record = await a.create_or_reject("t", multitask_strategy="enqueue")
    block = Block(a, record, on_pending_cancel=how)
    await asyncio.sleep(0)
    assert await b.cancel(record.run_id)
    await block.over()
    assert isinstance(block.error, RunNotStarted if how == "raise" else asyncio.CancelledError)
    assert block.task.cancelling() == (0 if how == "raise" else 1)
    assert record.abort_event.is_set()
    assert not block.agent.started.is_set()
    assert (await b.runs.get(record.run_id)).settled
    assert first.running
    await block.end()


@pytest.mark.settings(max_running=1)
async def test_blocks_take_the_places_of_their_worker(team: list[RunManager]) -> None:
    a, b = team
    _, block = await entered(a, "t1")
    record = await a.create_or_reject("t2")
    second = Block(a, record, on_pending_cancel="raise")
    third = Block(a, await a.create_or_reject("t3"))
    await wait_until(lambda: a.worker.waiting_for_place == 2, description="both wait for the place")
    assert await b.cancel(record.run_id, wait=5)
    await second.over()
    assert isinstance(second.error, RunNotStarted)
    block.agent.may_end.set()
    async with asyncio.timeout(10):
        await third.agent.started.wait()
    third.agent.may_end.set()
    for each in (block, second, third):
        await each.end()


async def test_exception_of_the_block_is_the_error_of_the_run_and_propagates(manager: RunManager) -> None:
    record = await manager.create_or_reject("t")
    with pytest.raises(ZeroDivisionError):
        async with manager.running(record):
            raise ZeroDivisionError("by zero")
    with pytest.raises(RunFailed, match="ZeroDivisionError: by zero"):
        await manager.wait(record.run_id)


async def test_task_that_its_caller_cancels_leaves_an_interrupted_run(manager: RunManager) -> None:
    record, block = await entered(manager, "t")
    block.task.cancel()
    await block.over()
    assert (await manager.runs.get(record.run_id)).status == "interrupted"
    await block.end()


async def test_ending_of_the_block_counts_also_if_it_raises_afterwards(manager: RunManager) -> None:
    record = await manager.create_or_reject("t")

    async def caller() -> None:
        async with manager.running(record) as ctx:
            ctx.end("error", error="first")
            ctx.end(RunStatus.success, result={"answer": 42})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await caller()
    assert await manager.wait(record.run_id) == {"answer": 42}
    failed = await manager.create_or_reject("t")
    async with manager.running(failed) as ctx:
        ctx.end("error", error="the model refused")
    assert (await manager.ended(failed.run_id))[:2] == ("error", "the model refused")


async def test_committed_cancel_takes_precedence_over_the_ending_of_the_block(team: list[RunManager]) -> None:
    a, b = team
    record = await a.create_or_reject("t")
    async with a.running(record) as ctx:
        with suppress(asyncio.CancelledError):
            await b.cancel(record.run_id)
            await asyncio.Event().wait()
        ctx.end("success")
    assert record.status is RunStatus.interrupted
    current = asyncio.current_task()
    assert current is not None
    current.uncancel()


@pytest.mark.parametrize("status", ["pending", "running"])
async def test_block_cannot_end_with_a_status_in_flight(manager: RunManager, status: str) -> None:
    record = await manager.create_or_reject("t")
    async with manager.running(record) as ctx:
        with pytest.raises(InvalidArgument, match="terminal"):
            ctx.end(status)
    assert record.status is RunStatus.success


async def test_decision_after_the_block_does_not_cancel_the_task(team: list[RunManager]) -> None:
    """Tracked work holds the thread after the block; a cancel ends the run, and the task is its caller's."""
    a, b = team
    record = await a.create_or_reject("t")
    work = asyncio.get_running_loop().create_future()

    async def caller() -> None:
        async with a.running(record) as ctx:
            ctx.track(work)

    task = asyncio.get_running_loop().create_task(caller())
    await wait_until(lambda: record.status is RunStatus.running and record.task is None, description="left")
    assert await b.cancel(record.run_id)
    await wait_until(record.abort_event.is_set, description="the decision has arrived")
    assert not task.done()
    work.set_result(None)
    async with asyncio.timeout(10):
        await task
    assert task.cancelling() == 0
    assert (await b.runs.get(record.run_id)).settled


async def test_events_and_values_of_a_block_reach_other_workers(team: list[RunManager]) -> None:
    a, b = team
    record = await a.create_or_reject("t")
    async with a.running(record) as ctx:
        assert current_run.get() is ctx
        await ctx.emit("custom", {"n": 1})
        await ctx.save({"turns": 1})
        ctx.progress(total_tokens=7)
    assert current_run.get() is None
    events = [event async for event in b.follow(record.run_id) if isinstance(event, Event)]
    assert [event.mode for event in events] == ["custom", "values"]
    assert (await b.threads.get("t")).values == {"turns": 1}
    with pytest.raises(StaleFence):
        await ctx.emit("custom", 2)


async def test_rollback_of_a_block_restores_the_values(team: list[RunManager]) -> None:
    a, b = team
    first = await a.create_or_reject("t")
    async with a.running(first) as ctx:
        await ctx.save({"turns": 1})
    record, block = await entered(a, "t", Agent(saves={"turns": 2}))
    assert await b.cancel(record.run_id, action="rollback", wait=10)
    assert (await b.threads.get("t")).values == {"turns": 1}
    await block.over()
    await block.end()


async def test_time_limit_ends_a_block(manager: RunManager) -> None:
    record = await manager.create_or_reject("t", timeout=0.05)
    block = Block(manager, record)
    await block.over()
    assert record.status is RunStatus.timeout
    await block.end()


async def test_block_that_ignores_its_cancel_is_settled_by_force(team: list[RunManager]) -> None:
    a, b = team
    record, block = await entered(a, "t", Agent(stubborn=True))
    assert await b.cancel(record.run_id, wait=10)
    assert not block.left.is_set()
    with pytest.raises(StaleFence):
        await block.agent.ctx.save({"late": True})
    block.agent.may_stop.set()
    await block.over()
    assert record.status is RunStatus.interrupted
    await block.end()


async def test_drain_cancels_a_block_after_the_grace(team: list[RunManager]) -> None:
    a, b = team
    record, block = await entered(a, "t")
    draining = asyncio.create_task(a.worker.drain(grace=0.05))
    await block.over()
    await draining
    row = await b.runs.get(record.run_id)
    assert (row.status, row.cancel_cause) == ("interrupted", "shutdown")
    await block.end()


async def test_block_that_ends_within_the_grace_of_a_drain_keeps_its_ending(team: list[RunManager]) -> None:
    a, b = team
    record, block = await entered(a, "t")
    draining = asyncio.create_task(a.worker.drain(grace=10))
    async with asyncio.timeout(5):
        await block.agent.ctx.drain_event.wait()
    block.agent.may_end.set()
    await block.over()
    await draining
    assert (await b.runs.get(record.run_id)).status == "success"
    await block.end()


async def test_task_that_the_caller_attached_stays_attached(manager: RunManager) -> None:
    record = await manager.create_or_reject("t")

    async def caller() -> str:
        async with manager.running(record):
            pass
        return "done"

    record.task = task = asyncio.get_running_loop().create_task(caller())
    await task
    assert record.task is task
    assert record.status is RunStatus.success


async def test_invalid_argument_of_a_block_leaves_the_run_as_it_was(manager: RunManager) -> None:
    """It is refused before the block, so that the caller may call again."""
    record = await manager.create_or_reject("t")
    invalid: Any = "notify"
    with pytest.raises(InvalidArgument, match="on_pending_cancel"):
        manager.running(record, on_pending_cancel=invalid)
    assert (record.task, record.status) == (None, RunStatus.pending)
    async with manager.running(record):
        pass
    assert not await manager.has_inflight("t")


async def test_block_is_refused_for_a_run_that_has_another_task_or_was_started(manager: RunManager) -> None:
    record, _ = await running(manager, "t")
    with pytest.raises(InvalidArgument, match="another task"):
        async with manager.running(record):
            pass
    started = await manager.create_or_reject("u")
    await manager.start(started.run_id)
    with pytest.raises(InvalidArgument, match="started before"):
        async with manager.running(started):
            pass
    twice = await manager.create_or_reject("v")
    async with manager.running(twice):
        with pytest.raises(InvalidArgument, match="started before"):
            async with manager.running(twice):
                pass
    assert twice.status is RunStatus.success
    foreign = await manager.get("unknown") or RunRecord(
        "unknown", "t", None, RunStatus.pending, record.on_disconnect
    )
    with pytest.raises(InvalidArgument, match="not admitted"):
        async with manager.running(foreign):
            pass


@pytest.mark.parametrize("how", ["cancel", "raise"])
async def test_block_of_a_run_that_has_ended_is_not_entered(manager: RunManager, how: Any) -> None:
    ended = await manager.create_or_reject("t")
    await manager.set_status(ended.run_id, "success")
    with pytest.raises(RunNotStarted) as refused:
        async with manager.running(ended, on_pending_cancel=how):
            raise AssertionError
    assert refused.value.status is RunStatus.success
    cancelled = await manager.create_or_reject("t")
    await manager.cancel(cancelled.run_id)
    block = Block(manager, cancelled, on_pending_cancel=how)
    await block.over()
    assert isinstance(block.error, RunNotStarted if how == "raise" else asyncio.CancelledError)
    await block.end()


async def test_generator_that_is_closed_within_the_block_interrupts_its_run(manager: RunManager) -> None:
    """As the body of a streaming response is whose client has disconnected."""
    record = await manager.create_or_reject("t")

    async def body() -> AsyncGenerator[object]:
        async with manager.running(record):
            yield 1
            yield 2

    stream = body()
    async for _ in stream:
        break
    await stream.aclose()
    assert (await manager.runs.get(record.run_id)).status == "interrupted"


async def test_block_in_a_generator_holds_the_thread_although_the_task_that_entered_it_has_ended(
    team: list[RunManager],
) -> None:
    a, b = team
    record = await a.create_or_reject("t")

    async def body() -> AsyncGenerator[object]:
        async with a.running(record) as ctx:
            yield ctx

    stream = body()
    task = asyncio.get_running_loop().create_task(stream.__anext__())
    await task
    assert await b.cancel(record.run_id)
    await wait_until(record.abort_event.is_set, description="the decision has arrived")
    _, following = await launched(b, "t", multitask_strategy="enqueue")
    assert not (await b.runs.get(record.run_id)).settled
    assert not following.started.is_set()
    await stream.aclose()
    async with asyncio.timeout(10):
        await following.started.wait()
