"""The demo assistant `agent`: the values that its runs leave on their thread, however they end."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from coordinator import InvalidArgument, RunFailed, RunManager, RunRecord, open_coordinator
from coordinator.assistants.demo import agent
from tests.support.teams import QUICK
from tests.support.waiting import wait_until


@pytest.fixture
async def manager(tmp_path: Path) -> AsyncGenerator[RunManager]:
    async with open_coordinator(f"sqlite:///{tmp_path}/runs.db", assistants=[agent], **QUICK) as manager:
        yield manager


async def begun(manager: RunManager, strategy: str = "reject", **fields: Any) -> RunRecord:
    record = await manager.create_or_reject(
        "t", "agent", kwargs={"input": fields}, multitask_strategy=strategy
    )
    manager.launch(record)
    return record


async def values(manager: RunManager) -> Any:
    thread = await manager.store.thread("t")
    return thread.values if thread is not None else None


async def has_noted(manager: RunManager, steps: int) -> None:
    async def noted() -> bool:
        held = await values(manager)
        return held is not None and len(held["log"]) >= steps

    await wait_until(noted, description=f"{steps} steps are saved")


async def test_log_grows_over_the_runs_of_a_thread(manager: RunManager) -> None:
    first = await begun(manager, steps=2, tag="a")
    assert await manager.wait(first.run_id, timeout=10) == {"done": 2, "steps": 2, "log": ["a:1", "a:2"]}
    second = await begun(manager)
    expected = {"done": 1, "steps": 1, "log": ["a:1", "a:2", "run:1"]}
    assert await manager.wait(second.run_id, timeout=10) == expected == await values(manager)


async def test_failed_run_keeps_the_steps_before_its_last(manager: RunManager) -> None:
    run = await begun(manager, steps=3, tag="f", fail=True)
    with pytest.raises(RunFailed, match="ValueError: demo failure requested"):
        await manager.wait(run.run_id, timeout=10)
    assert await values(manager) == {"done": 2, "steps": 3, "log": ["f:1", "f:2"]}


async def test_interrupted_run_keeps_its_steps_and_rolled_back_run_leaves_none(
    manager: RunManager,
) -> None:
    before = await begun(manager, tag="a")
    kept = await manager.wait(before.run_id, timeout=10)
    undone = await begun(manager, sleep=0.01, steps=100_000, tag="u")
    await has_noted(manager, 2)
    assert await manager.cancel(undone.run_id, action="rollback", wait=5)
    assert await values(manager) == kept
    stopped = await begun(manager, sleep=0.01, steps=100_000, tag="s")
    await has_noted(manager, 3)
    assert await manager.cancel(stopped.run_id, wait=5)
    log = (await values(manager))["log"]
    assert log[:3] == ["a:1", "s:1", "s:2"]
    last = await begun(manager, tag="z")
    await manager.wait(last.run_id, timeout=10)
    assert (await values(manager))["log"] == [*log, "z:1"]


@pytest.mark.parametrize(
    "fields",
    [
        {"sleep": -1},
        {"sleep": float("nan")},
        {"steps": -1},
        {"steps": 1.5},
        {"fail": "perhaps"},
        {"tag": None},
    ],
)
async def test_invalid_input_is_refused(manager: RunManager, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match="input"):
        await begun(manager, **fields)


async def test_other_thread_values_are_kept(manager: RunManager) -> None:
    await manager.threads.replace_values("t", {"title": "kept", "log": "no list"})
    run = await begun(manager, unheard_of=1)
    await manager.wait(run.run_id, timeout=10)
    assert await values(manager) == {"title": "kept", "done": 1, "steps": 1, "log": ["run:1"]}
