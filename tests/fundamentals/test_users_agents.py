"""Whatever the code of a run does, a cancel ends it: by its own end, not by force, and after its cleanup."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from coordinator import RunManager, RunRecord, RunStatus
from tests.support.factories import FACTORIES, use
from tests.support.inside import assembly_of
from tests.support.kit import KIT, UserAgent
from tests.support.teams import team_of

FORCE_AFTER = 6.0
"""Time (s) until a run is forced. An agent that stops earlier has stopped by itself."""

Way = Callable[[RunManager, list[RunRecord]], Awaitable[RunStatus]]
"""Stops all runs, and returns the status with which they end."""


async def _cancel(manager: RunManager, runs: list[RunRecord]) -> RunStatus:
    await asyncio.gather(*(manager.cancel(run.run_id, wait=FORCE_AFTER * 2) for run in runs))
    return RunStatus.interrupted


async def _replace(manager: RunManager, runs: list[RunRecord], strategy: str) -> RunStatus:
    async def one(run: RunRecord) -> None:
        new = await manager.create_or_reject(run.thread_id, multitask_strategy=strategy)
        manager.launch(new, _nothing)
        await manager.wait(new.run_id, timeout=FORCE_AFTER * 2)

    await asyncio.gather(*map(one, runs))
    return RunStatus.interrupted


async def _interrupt(manager: RunManager, runs: list[RunRecord]) -> RunStatus:
    return await _replace(manager, runs, "interrupt")


async def _rollback(manager: RunManager, runs: list[RunRecord]) -> RunStatus:
    return await _replace(manager, runs, "rollback")


async def _parent(manager: RunManager, runs: list[RunRecord]) -> RunStatus:
    parent = runs[0].parent_run_id
    assert parent is not None
    await manager.cancel(parent)
    return RunStatus.interrupted


async def _limit(manager: RunManager, runs: list[RunRecord]) -> RunStatus:
    """Its time is over by itself."""
    return RunStatus.timeout


async def _drain(manager: RunManager, runs: list[RunRecord]) -> RunStatus:
    await manager.worker.drain(grace=0)
    return RunStatus.interrupted


async def _nothing(ctx: Any) -> None:
    """Takes the thread, and is done."""


WAYS: dict[str, tuple[Way, dict[str, Any]]] = {
    "cancel": (_cancel, {}),
    "interrupt": (_interrupt, {}),
    "rollback": (_rollback, {}),
    "parent": (_parent, {}),
    "timeout": (_limit, {"timeout": 1.0}),  # more than the start of all of them takes
    "idle": (_limit, {"idle_timeout": 1.0}),
    "drain": (_drain, {}),
}


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncGenerator[RunManager]:
    async with team_of(1, tmp_path, store="memory://", force_after=FORCE_AFTER, grace=0) as (manager,):
        yield manager


async def stop_all(worker: RunManager, way: str) -> None:
    """Every agent of the kit at once, each on a thread of its own."""
    stopping, limits = WAYS[way]
    clean_up = 0.1 if way == "drain" else 0.3  # a drain without grace leaves half a second
    agents = {name: UserAgent(name, clean_up=clean_up) for name in KIT}
    parent = await worker.create_or_reject("parent")
    worker.launch(parent, UserAgent("waits"))
    runs = {
        name: await worker.create_or_reject(name, parent_run_id=parent.run_id, **limits) for name in agents
    }
    tasks = {name: worker.launch(runs[name], agent) for name, agent in agents.items()}
    async with asyncio.timeout(20):
        await asyncio.gather(*(agent.body.ready.wait() for agent in agents.values()))
        status = await stopping(worker, list(runs.values()))
        for name, run in runs.items():
            await assembly_of(worker).runs.waiter.until_settled(run.run_id, None)
            assert run.status is status, name
    assert not {name for name, task in tasks.items() if not task.done()}, "their code continues"
    assert worker.worker.forced == 0
    cut_short = {
        name: (agent.body.begun, agent.body.finished)
        for name, agent in agents.items()
        if agent.body.begun != agent.body.finished
    }
    assert not cut_short


CASES = [(way, "no factory") for way in WAYS] + [
    (way, factory) for way in ("cancel", "drain") for factory in FACTORIES if factory != "no factory"
]


@pytest.mark.parametrize(("way", "factory"), CASES)
async def test_cancel_ends_any_kind_of_agent_after_its_cleanup(
    worker: RunManager, way: str, factory: str
) -> None:
    with use(factory):
        await stop_all(worker, way)
