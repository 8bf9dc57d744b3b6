"""A run that has its thread and is never launched does not hold it for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import pytest

from coordinator import RunFailed, RunManager, RunRecord, RunStatus
from tests.support.agents import quick, running
from tests.support.teams import team_of

LIMIT = 0.3  # s


@pytest.fixture
async def strict(tmp_path: Path) -> AsyncGenerator[RunManager]:
    async with team_of(1, tmp_path, launch_timeout=LIMIT, tick=0.05) as (manager,):
        yield manager


async def test_run_that_is_never_launched_ends_as_error_with_the_reason(strict: RunManager) -> None:
    run = await strict.create_or_reject("t")
    with pytest.raises(RunFailed, match=r"was not launched within 0\.3 s"):
        await strict.wait(run.run_id, timeout=20)
    row = (await strict.runs.explain(run.run_id)).run
    assert (row.status, row.cancel_cause, row.settled) == (RunStatus.error, "orphaned", True)
    assert run.abort_event.is_set()
    again = await strict.create_or_reject("t")
    strict.launch(again, quick)
    await strict.wait(again.run_id, timeout=20)


async def test_time_to_launch_counts_from_the_turn(strict: RunManager) -> None:
    """A queued run holds nothing."""
    first, agent = await running(strict, "t")
    waiting = await strict.create_or_reject("t", multitask_strategy="enqueue")
    await asyncio.sleep(LIMIT * 3)
    assert waiting.status is RunStatus.pending
    agent.may_end.set()
    await strict.wait(first.run_id, timeout=20)
    with pytest.raises(RunFailed, match="not launched"):
        await strict.wait(waiting.run_id, timeout=20)


async def _attaches(manager: RunManager, run: RunRecord) -> None:
    run.task = asyncio.create_task(asyncio.sleep(LIMIT * 4))


async def _starts(manager: RunManager, run: RunRecord) -> None:
    await manager.set_status(run.run_id, RunStatus.running)


async def _counts(manager: RunManager, run: RunRecord) -> None:
    await manager.update_run_completion(run.run_id, total_tokens=1)


async def _names(manager: RunManager, run: RunRecord) -> None:
    await manager.update_model_name(run.run_id, "model")


@pytest.mark.parametrize("sign", [_attaches, _starts, _counts, _names])
async def test_run_that_its_caller_uses_is_not_ended(
    strict: RunManager, sign: Callable[[RunManager, RunRecord], Awaitable[None]]
) -> None:
    """Callers with their own tasks need not have attached them yet."""
    run = await strict.create_or_reject("t")
    await sign(strict, run)
    await asyncio.sleep(LIMIT * 3)
    assert run.status is not RunStatus.error
    await strict.set_status(run.run_id, RunStatus.success)
    assert run.status is RunStatus.success


async def test_unlaunched_run_beside_the_slot_holds_no_thread(strict: RunManager) -> None:
    _, agent = await running(strict, "t")
    run = await strict.create("t")
    await asyncio.sleep(LIMIT * 3)
    assert run.status is RunStatus.pending
    await strict.set_status(run.run_id, RunStatus.success)
    agent.may_end.set()
