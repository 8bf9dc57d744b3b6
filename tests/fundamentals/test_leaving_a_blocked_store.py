"""The store does not answer, and the worker shuts down nevertheless: in time, and with a log of the steps
that it skipped."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import Any

import pytest

from coordinator import RunManager, RunStatus
from tests.support.agents import Agent, launched, running
from tests.support.builders import locked, stored
from tests.support.teams import team_of
from tests.support.waiting import wait_until

GRACE, BOUND = 0.3, 5.0
BLOCKED: dict[str, Any] = {"busy_timeout": 60.0, "lease_ttl": 60.0, "grace": GRACE}
"""A store that answers long after every worker must have left."""


async def _busy(manager: RunManager) -> list[Agent]:
    """Start runs of each kind that a shutdown has to end."""
    deaf = Agent(stubborn=True)
    await running(manager, "deaf", deaf)
    _, about_to_end = await running(manager, "about to end")
    _, unwinds = await running(manager, "unwinds")
    _, waits = await launched(manager, "unwinds", multitask_strategy="enqueue")
    await manager.create_or_reject("without a task")
    return [deaf, about_to_end, unwinds, waits]


@pytest.mark.slow
@pytest.mark.parametrize("drained", [False, True], ids=["at once", "after a drain"])
async def test_shutdown_on_a_blocked_store_is_bounded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, drained: bool
) -> None:
    async with team_of(1, tmp_path, **BLOCKED) as (manager,):
        deaf, about_to_end, _, waits = await _busy(manager)
        with locked(tmp_path / "runs.db"), caplog.at_level(logging.WARNING):
            about_to_end.may_end.set()
            began = time.monotonic()
            if drained:
                await manager.worker.drain()
            await manager.aclose()
            took = time.monotonic() - began
        deaf.may_stop.set()
        await deaf.stopped.wait()
    assert took < GRACE + BOUND
    assert not waits.started.is_set()
    assert "Shutdown step 'Signing off' timed out" in caplog.text
    for run_id in stored(tmp_path / "runs.db"):
        assert run_id in caplog.text, "nothing is left undone without a word"


async def test_worker_signs_off_when_the_store_is_back(tmp_path: Path) -> None:
    """A slow step leaves the others their share of the time."""
    patient: dict[str, Any] = {**BLOCKED, "grace": 10.0}
    async with team_of(1, tmp_path, **patient) as (manager,):
        run, agent = await running(manager, "t")
        with locked(tmp_path / "runs.db"):
            agent.may_end.set()
            leaving = asyncio.create_task(manager.aclose())
            await wait_until(lambda: manager.worker.draining, description="it leaves")
        await leaving
    assert run.status is RunStatus.success
    assert stored(tmp_path / "runs.db", "SELECT fenced_by = epoch FROM workers") == [1], "by itself"
