"""What a worker costs that has nothing to do but run: store writes and Redis commands a second; with MOST
runs also CPU, and memory for each run."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from bench.bare import connect
from bench.cpu import cpu_seconds
from bench.memory import memory_of
from bench.processes import WorkerProcess, workers
from bench.report import Measure, at_most
from coordinator.servers.valkey import ValkeyServer

FEW, MANY, MOST = 10, 1_000, 10_000
SECONDS = 10.0
AT_REST = 20.0
"""Seconds over which the CPU is measured."""


async def run(rounds: int) -> list[Measure]:
    del rounds  # it counts, it does not time
    with ValkeyServer() as server, tempfile.TemporaryDirectory() as folder:
        store = f"sqlite:///{Path(folder) / 'runs.db'}"
        async with workers(1, store, server.url) as (worker,), connect(server.url) as client:
            await worker.call("hold_many", runs=FEW)
            few = await _counted(worker, client)
            await worker.call("hold_many", runs=MANY - FEW)
            many = await _counted(worker, client)
        async with workers(1, store, server.url) as (worker,):
            most = await _most(worker)
    measures: list[Measure] = []
    units = {"commits": "store writes/s", "reads": "store reads/s", "commands": "Redis commands/s"}
    for name, unit in units.items():
        same = abs(few[name] - many[name]) <= 0.6  # one beat more or less falls into the window
        measures.append(Measure("idle", f"{FEW} running runs", few[name], unit))
        measures.append(
            Measure("idle", f"{MANY:,} running runs", many[name], unit, f"= {few[name]:.1f}", same)
        )
    return measures + most


async def _most(worker: WorkerProcess) -> list[Measure]:
    await worker.call("hold_many", runs=FEW)
    before = memory_of(worker.pid).rss
    for _ in range(37):
        await worker.call("hold_many", runs=270)
    await asyncio.sleep(5.0)
    grown = memory_of(worker.pid).rss - before
    began = cpu_seconds([worker.pid])
    await asyncio.sleep(AT_REST)
    share = (cpu_seconds([worker.pid]) - began) / AT_REST * 100
    return [
        at_most(Measure("idle", f"{MOST:,} running runs, CPU", share, "% of a core"), 2),
        at_most(Measure("idle", f"{MOST:,} running runs, memory of a run", grown / (MOST - FEW), "KiB"), 12),
    ]


async def _counted(worker: WorkerProcess, client: Any) -> dict[str, float]:
    await asyncio.sleep(1.0)  # let what the admissions left behind go out
    before = await _counters(worker, client)
    await asyncio.sleep(SECONDS)
    after = await _counters(worker, client)
    return {name: (after[name] - before[name]) / SECONDS for name in before}


async def _counters(worker: WorkerProcess, client: Any) -> dict[str, int]:
    stats: dict[str, dict[str, int]] = await client.info("commandstats")
    commands = sum(stat["calls"] for name, stat in stats.items() if name != "cmdstat_info")
    return {**await worker.call("counters"), "commands": commands}
