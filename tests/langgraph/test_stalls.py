"""A node that blocks the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langgraph.graph import START, StateGraph

from tests.fundamentals.test_stalls import Blocked, quickly_noticed, seen_from_a_thread
from tests.langgraph.graphs import Log
from tests.langgraph.lab import begun, workers


@pytest.mark.parametrize("library", ["asyncio", "uvloop"])
def test_stall_names_run_graph_and_node(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, library: str
) -> None:
    loop: Callable[[], asyncio.AbstractEventLoop] = pytest.importorskip(library).new_event_loop

    def lines() -> list[str]:
        return [one.getMessage() for one in caplog.records if one.name == "coordinator.workers.stall"]

    async def stalled() -> tuple[str, list[Any]]:
        blocked = Blocked()

        async def heavy(state: Log) -> Log:
            blocked.stand()
            return {"log": ["heavy"]}

        builder: Any = StateGraph(Log)
        builder.add_node("heavy", heavy)
        builder.add_edge(START, "heavy")
        async with workers(tmp_path, {"g": builder}, 1) as (a,):
            with quickly_noticed(a):
                thread, logged = seen_from_a_thread(blocked, lines)
                run = await begun(a, "g", input={"log": []})
                await a.wait(run.run_id, timeout=20)
                await asyncio.to_thread(thread.join)
        return run.run_id, logged

    with asyncio.Runner(loop_factory=loop) as runner:
        run_id, ((line,),) = runner.run(stalled())
    assert f"of run {run_id!r} (assistant 'g', node 'heavy') on thread 't', at " in line
