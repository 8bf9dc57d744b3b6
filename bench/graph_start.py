"""`coordinator dev` with a langgraph.json: from the start of the process to healthy and to the first run, and
what all its processes hold then; in turn with a process that only imports the module of the graph."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from bench.cpu import cpu_seconds, process_tree
from bench.gateway_start import answered
from bench.http import connected
from bench.memory import memory_of
from bench.report import Measure, at_most, median
from coordinator.servers.process import free_port

_FILES = {
    "langgraph.json": '{"graphs": {"agent": "./agent.py:graph"}}',
    "agent.py": """
from typing import TypedDict

from langgraph.graph import END, START, StateGraph


class State(TypedDict, total=False):
    done: bool


async def work(state: State) -> State:
    return {"done": True}


builder = StateGraph(State)
builder.add_node("work", work)
builder.add_edge(START, "work")
builder.add_edge("work", END)
graph = builder.compile()
""",
}
_RUN: dict[str, Any] = {"assistant_id": "agent", "input": {}}
_MB = 1024


class _Start(NamedTuple):
    """Seconds from the start of the process; MB."""

    imported: float
    healthy: float
    first_run: float
    rss: float
    uss: float
    cpu: float


async def measured(rounds: int) -> list[Measure]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, text in _FILES.items():
            (folder / file).write_text(text)
        await _import(folder)  # compiles it
        starts = [await _start(folder) for _ in range(rounds)]

    def of(what: str, values: list[float], unit: str, note: str = "") -> Measure:
        return Measure("graphs", f"dev: {what}", median(values), unit, note=note)

    allowed = [1.5 * start.imported + 0.5 for start in starts]
    note = f"{median([start.cpu for start in starts]):.2f} s CPU"
    return [
        of("import of the graph's module alone", [start.imported for start in starts], "s"),
        of("start to healthy", [start.healthy for start in starts], "s"),
        of("start to first run", [start.first_run for start in starts], "s", note),
        at_most(
            of(
                "start to healthy",
                [start.healthy / most for start, most in zip(starts, allowed, strict=True)],
                "x allowed",
                "allowed: 1.5 x the import + 0.5 s",
            ),
            1,
        ),
        at_most(
            of(
                "start to first run",
                [start.first_run / most for start, most in zip(starts, allowed, strict=True)],
                "x allowed",
            ),
            1,
        ),
        at_most(of("memory, USS", [start.uss for start in starts], "MB"), 150),
        at_most(of("memory, RSS", [start.rss for start in starts], "MB"), 150),
    ]


async def _import(folder: Path) -> float:
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "import agent", cwd=folder)
    await process.wait()
    return time.perf_counter() - began


async def _start(folder: Path) -> _Start:
    imported = await _import(folder)
    shutil.rmtree(folder / ".coordinator", ignore_errors=True)
    port = free_port()
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *(str(Path(sys.executable).with_name("coordinator")), "dev", "--port", str(port)),
        cwd=folder,
        env={key: value for key, value in os.environ.items() if not key.startswith("COORDINATOR_")},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await answered(port)
        healthy = time.perf_counter() - began
        async with connected(port) as connection:
            result = await connection.call("POST", "/runs/wait", _RUN)
        first_run = time.perf_counter() - began
        assert result == {"done": True}, result
        pids = process_tree(process.pid)
        memory = [memory_of(pid) for pid in pids]
        rss, uss = sum(each.rss for each in memory) / _MB, sum(each.uss for each in memory) / _MB
        return _Start(imported, healthy, first_run, rss, uss, cpu_seconds(pids))
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        await process.wait()
