"""Workers are killed (kill -9) on the host of two others: until their threads are free, as the store shows
it, and from there until the children of their runs, on the others, were notified. All have the default
settings; the instants of the kills know nothing of the sweeps.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from bench.databases import fresh_database, running_server
from bench.report import Measure, at_most, median, quantile
from coordinator import RunContext, RunManager, Settings, open_coordinator

VICTIMS, WINDOW = 10, 12.0  # at a time; s over which they are killed
BOUND = 6.0  # s: one sweep, and what it takes
CHILD_BOUND = 2.0  # s after the declaration of death
_LOOK = 0.02  # s
_Store = dict[str, Any]


async def run(rounds: int) -> list[Measure]:
    measures: list[Measure] = []
    with running_server() as server:
        for name, url in (("SQLite", None), ("PostgreSQL", server)):
            deaths = [death for _ in range(rounds) for death in await _killed(url)]
            freed, stopped = zip(*deaths, strict=True)
            measures += _measures(f"killed on the same host, thread free, {name}", freed, BOUND)
            measures += _measures(
                f"its child stopped after the declaration of death, {name}", stopped, CHILD_BOUND
            )
    return measures


def _measures(what: str, took: Sequence[float], bound: float) -> list[Measure]:
    p99 = Measure("deaths", f"{what}, p99", quantile(took, 0.99), "s", note=f"of {len(took)}")
    return [at_most(p99, bound), Measure("deaths", f"{what}, median", median(took), "s")]


@asynccontextmanager
async def _store(url: str | None) -> AsyncGenerator[_Store]:
    with tempfile.TemporaryDirectory() as folder:
        if url is None:
            yield {"store": f"sqlite:///{Path(folder) / 'runs.db'}"}
            return
        async with fresh_database(url) as database:
            yield {"store": database, "postgres_host_gate": folder, "postgres_connections": 2}


async def _killed(url: str | None) -> list[tuple[float, float]]:
    """For each victim: seconds until its thread was free, and from there until the child was cancelled."""
    context = multiprocessing.get_context("spawn")
    async with AsyncExitStack() as stack:
        settings = Settings(**await stack.enter_async_context(_store(url)))
        survivor, other = [
            await stack.enter_async_context(open_coordinator(settings=settings)) for _ in range(2)
        ]
        victims: list[BaseProcess] = []
        children: list[asyncio.Future[float]] = []
        for number in range(VICTIMS):
            run_id, send = context.Pipe(duplex=False)
            victim = context.Process(target=_holding, args=(settings, number, send), daemon=True)
            victim.start()
            children.append(await _child(other, number, await asyncio.to_thread(run_id.recv)))
            victims.append(victim)
        deaths = (
            _death(survivor, victim, number, child)
            for number, (victim, child) in enumerate(zip(victims, children, strict=True))
        )
        return await asyncio.gather(*deaths)


async def _child(manager: RunManager, number: int, parent: str) -> asyncio.Future[float]:
    """A run of the parent's is held; the future returns the time at which it was cancelled."""
    cancelled: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    async def hold(ctx: RunContext) -> None:
        del ctx
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set_result(time.perf_counter())

    manager.launch(await manager.create_or_reject(f"child-{number}", parent_run_id=parent), hold)
    return cancelled


async def _death(
    survivor: RunManager, victim: BaseProcess, number: int, child: asyncio.Future[float]
) -> tuple[float, float]:
    await asyncio.sleep(random.uniform(0, WINDOW))
    os.kill(victim.pid or 0, signal.SIGKILL)
    killed = time.perf_counter()
    while await survivor.has_inflight(f"t{number}"):  # noqa: ASYNC110 - no event reports it without Redis
        await asyncio.sleep(_LOOK)
    free = time.perf_counter()
    stopped = await child
    await asyncio.to_thread(victim.join, 10)
    return free - killed, max(stopped - free, 0.0)


def _holding(settings: Settings, number: int, holds: Connection) -> None:
    async def live() -> None:
        async def forever(ctx: RunContext) -> None:
            holds.send(ctx.run.run_id)
            await asyncio.Event().wait()

        async with open_coordinator(settings=settings) as manager:
            manager.launch(await manager.create_or_reject(f"t{number}"), forever)
            await asyncio.Event().wait()

    asyncio.run(live())
