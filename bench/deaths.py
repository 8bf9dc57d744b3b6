"""A worker is killed (kill -9) on the host of another one: until its thread is free, as the store shows it.
All have the default settings; all but one of them are killed, at instants that the sweeps of the others know
nothing of.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from bench.databases import fresh_database, running_server
from bench.report import Measure, at_most, median, quantile
from coordinator import RunContext, RunManager, Settings, open_coordinator

VICTIMS, WINDOW = 10, 12.0  # at a time; s over which they are killed
BOUND = 6.0  # s: one sweep, and what it takes
_LOOK = 0.02  # s
_Store = dict[str, Any]


async def run(rounds: int) -> list[Measure]:
    measures: list[Measure] = []
    with running_server() as server:
        for name, url in (("SQLite", None), ("PostgreSQL", server)):
            took = [second for _ in range(rounds) for second in await _killed(url)]
            p99 = Measure(
                "deaths", f"killed on the same host, thread free, {name}, p99", quantile(took, 0.99), "s"
            )
            middle = f"killed on the same host, thread free, {name}, median"
            measures += [at_most(p99, BOUND), Measure("deaths", middle, median(took), "s")]
    return measures


@asynccontextmanager
async def _store(url: str | None) -> AsyncGenerator[_Store]:
    with tempfile.TemporaryDirectory() as folder:
        if url is None:
            yield {"store": f"sqlite:///{Path(folder) / 'runs.db'}"}
            return
        async with fresh_database(url) as database:
            yield {"store": database, "postgres_host_gate": folder, "postgres_connections": 2}


async def _killed(url: str | None) -> list[float]:
    context = multiprocessing.get_context("spawn")
    async with _store(url) as store, open_coordinator(settings=Settings(**store)) as survivor:
        victims: list[BaseProcess] = []
        for number in range(VICTIMS):
            holds = context.Event()
            victim = context.Process(target=_holding, args=(store, number, holds), daemon=True)
            victim.start()
            await asyncio.to_thread(holds.wait, 60)
            victims.append(victim)
        deaths = (_thread_free(survivor, victim, number) for number, victim in enumerate(victims))
        return await asyncio.gather(*deaths)


async def _thread_free(survivor: RunManager, victim: BaseProcess, number: int) -> float:
    await asyncio.sleep(random.uniform(0, WINDOW))
    os.kill(victim.pid or 0, signal.SIGKILL)
    began = time.perf_counter()
    while await survivor.has_inflight(f"t{number}"):  # noqa: ASYNC110 - no event tells of it without Redis
        await asyncio.sleep(_LOOK)
    took = time.perf_counter() - began
    await asyncio.to_thread(victim.join, 10)
    return took


def _holding(store: _Store, number: int, holds: Any) -> None:
    async def live() -> None:
        async def forever(ctx: RunContext) -> None:
            del ctx
            holds.set()
            await asyncio.Event().wait()

        async with open_coordinator(settings=Settings(**store)) as manager:
            manager.launch(await manager.create_or_reject(f"t{number}"), forever)
            await asyncio.Event().wait()

    asyncio.run(live())
