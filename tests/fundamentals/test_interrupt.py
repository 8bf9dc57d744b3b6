"""`interrupt` replaces the runs in flight; the new run starts when the old task has stopped, not before."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from coordinator import RunManager, RunStatus, StoreUnavailable
from tests.support.agents import Agent, launched, running
from tests.support.teams import on_every_store
from tests.support.waiting import wait_until

pytestmark = on_every_store

BOTH = pytest.mark.parametrize("second", [0, 1], ids=["same worker", "other worker"])


@BOTH
async def test_interrupting_run_waits_until_the_old_task_has_stopped(
    team: list[RunManager], second: int
) -> None:
    """Reported failure 10."""
    old_run, old = await running(team[0], "t", Agent(stubborn=True))
    new_run, new = await launched(team[second], "t", multitask_strategy="interrupt")
    await old.cancelled.wait()
    assert old_run.status is RunStatus.interrupted
    assert (await team[second].runs.explain(new_run.run_id)).phase == "waiting"
    assert not new.started.is_set()
    old.may_stop.set()
    async with asyncio.timeout(20):
        await new.started.wait()
    assert old.stopped.is_set()


@BOTH
async def test_replaced_run_knows_its_replacement(team: list[RunManager], second: int) -> None:
    _, old = await running(team[0], "t")
    new_run, _ = await launched(team[second], "t", multitask_strategy="interrupt")
    async with asyncio.timeout(20):
        await old.cancelled.wait()
    assert old.ctx.abort is not None
    assert old.ctx.abort.cause == "superseded"
    assert new_run.run_id in str(old.ctx.abort.reason)


async def test_third_run_replaces_the_second_while_the_first_unwinds(team: list[RunManager]) -> None:
    a, b = team
    _, first = await running(a, "t", Agent(stubborn=True))
    second_run, second = await launched(b, "t", multitask_strategy="interrupt")
    third_run, third = await launched(a, "t", multitask_strategy="interrupt")
    assert await b.wait(second_run.run_id, timeout=20) is None
    assert not second.started.is_set()
    assert not third.started.is_set()
    first.may_stop.set()
    async with asyncio.timeout(20):
        await third.started.wait()
    assert first.cancels == 1
    assert third_run.status is RunStatus.running


async def test_failed_admission_does_not_interrupt(
    team: list[RunManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reported failure 12."""
    a, b = team
    old_run, old = await running(a, "t")
    waiting, _ = await launched(b, "t", multitask_strategy="enqueue")

    async def away(*_: Any, **__: Any) -> Any:
        raise StoreUnavailable("the disk is full")

    monkeypatch.setattr(b.store, "admit", away)
    with pytest.raises(StoreUnavailable):
        await b.create_or_reject("t", multitask_strategy="interrupt")
    assert old.running
    assert old_run.status is RunStatus.running
    assert waiting.status is RunStatus.pending
    assert not old_run.abort_event.is_set()


async def test_interrupted_task_that_ignores_its_cancel_is_forced(team: list[RunManager]) -> None:
    """It is cancelled once, its fence becomes stale, and the next run may start."""
    a, b = team
    _, old = await running(a, "t", Agent(stubborn=True))
    _, new = await launched(b, "t", multitask_strategy="interrupt")
    async with asyncio.timeout(10):
        await new.started.wait()
    assert old.running
    assert old.cancels == 1
    assert new.ctx.fence > old.ctx.fence
    old.may_stop.set()
    await wait_until(old.stopped.is_set, description="the deaf task ends after all")


async def test_queued_run_whose_task_is_cancelled_leaves_the_queue(
    team: list[RunManager],
) -> None:
    """Not by `cancel` but by the owner of the task. Its place must not be kept for ever."""
    a, b = team
    _, first = await running(a, "t")
    second_run, second = await launched(a, "t", multitask_strategy="enqueue")
    _, third = await launched(b, "t", multitask_strategy="enqueue")
    assert second_run.task is not None
    second_run.task.cancel()
    assert await b.wait(second_run.run_id, timeout=20) is None
    first.may_end.set()
    async with asyncio.timeout(20):
        await third.started.wait()
    assert not second.started.is_set()
