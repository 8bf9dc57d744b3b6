"""Steps and checkpoints of a graph are signs of life, whatever its client streams."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from langgraph.graph import START, StateGraph

from coordinator import RunStatus
from coordinator.runs import execution
from coordinator.schemas import PROTOCOL
from tests.langgraph.graphs import Log, Waiting
from tests.langgraph.lab import begun, workers
from tests.support.waiting import wait_until

IDLE = 3.0
STEPS = 9
STEP = 0.4
"""s. The time that passes is what these tests are about."""


def slow() -> Any:
    async def node(state: Log) -> Log:
        await asyncio.sleep(STEP)
        return {"log": ["step"]}

    builder: Any = StateGraph(Log)
    for at in range(STEPS):
        builder.add_node(f"n{at}", node)
        builder.add_edge(f"n{at - 1}" if at else START, f"n{at}")
    return builder


def within() -> Any:
    builder: Any = StateGraph(Log)
    builder.add_node("inner", slow().compile())
    builder.add_edge(START, "inner")
    return builder


@pytest.mark.parametrize(
    ("mode", "durability"),
    [
        *((mode, "async") for mode in ("values", "custom", "messages-tuple", "events", PROTOCOL)),
        ("custom", "exit"),
        ("messages-tuple", "exit"),
    ],
)
async def test_steps_reset_the_idle_timeout(tmp_path: Path, mode: str, durability: str) -> None:
    async with workers(tmp_path, {"g": slow()}, 1) as (a,):
        request: dict[str, Any] = {"input": {"log": []}, "stream_mode": [mode], "durability": durability}
        run = await a.create_or_reject("t", "g", kwargs=request, idle_timeout=IDLE)
        a.launch(run)
        assert len((await a.wait(run.run_id, timeout=20))["log"]) == STEPS


async def test_checkpoints_of_a_subgraph_reset_the_idle_timeout(tmp_path: Path) -> None:
    async with workers(tmp_path, {"g": within()}, 1) as (a,):
        request: dict[str, Any] = {"input": {"log": []}, "stream_mode": ["custom"]}
        run = await a.create_or_reject("t", "g", kwargs=request, idle_timeout=IDLE)
        a.launch(run)
        assert len((await a.wait(run.run_id, timeout=20))["log"]) == STEPS


async def test_graph_whose_step_hangs_is_idle(tmp_path: Path) -> None:
    waiting = Waiting()
    async with workers(tmp_path, {"g": waiting.graph}, 1) as (a,):
        run = await a.create_or_reject("t", "g", kwargs={"input": {"log": []}}, idle_timeout=0.2)
        a.launch(run)
        assert (await a.ended(run.run_id, timeout=20)).status is RunStatus.timeout
        assert waiting.cancels == 1


async def test_steps_are_written_to_the_row_at_intervals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`runs list --silent-for` reads the row. A short run has no further write."""
    waiting = Waiting()
    async with workers(tmp_path, {"g": waiting.graph}, 1) as (a,):

        async def written() -> bool:
            (row,) = await a.runs.search()
            assert row.started_at is not None
            return row.updated_at > row.started_at

        run = await begun(a, "g", input={"log": []}, stream_mode=["custom"])
        await waiting.reached.wait()
        assert not await written()
        await a.cancel(run.run_id, wait=20)
        await a.threads.delete("t")
        waiting.reached.clear()
        monkeypatch.setattr(execution, "SIGNS_WRITTEN_EVERY", 0.0)
        await begun(a, "g", input={"log": []}, stream_mode=["custom"])
        await waiting.reached.wait()
        await wait_until(written, description="the row has the sign of life")
        waiting.released.set()
