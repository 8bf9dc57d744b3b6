"""A queue of portable runs that its worker handed over (a rolling restart) or left behind (kill -9),
and the worker that works it off: from the moment when the thread is free for its first run, to the end of the
last.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bench.databases import fresh_database, running_server
from bench.report import Measure, at_most, median
from coordinator import RunContext, RunManager, Settings, open_coordinator
from coordinator.servers.valkey import ValkeyServer

LENGTH, WORK = 20, 0.01  # runs; s each
BOUND = 1.5  # s
_Store = dict[str, Any]


async def run(rounds: int) -> list[Measure]:
    measures: list[Measure] = []
    with ValkeyServer() as redis, running_server() as server:
        for name, kind in (("SQLite", None), ("SQLite and Redis", redis.url), ("PostgreSQL", server)):
            for what, left in (("handed over", _handed_over), ("left by a killed worker", _left_behind)):
                took = [await _measured(kind, left) for _ in range(rounds)]
                label = f"{LENGTH} runs of {WORK * 1000:g} ms, {what}, {name}, median"
                measures.append(at_most(Measure("lines", label, median(took), "s"), BOUND))
    return measures


async def _measured(kind: str | None, left: Callable[[_Store], Any]) -> float:
    async with _store(kind) as store:
        return await left(store)


@asynccontextmanager
async def _store(kind: str | None) -> AsyncGenerator[_Store]:
    if kind is not None and kind.startswith("postgres"):
        async with fresh_database(kind) as url:
            yield {"store": url}
        return
    with tempfile.TemporaryDirectory() as folder:
        yield {"store": f"sqlite:///{Path(folder) / 'runs.db'}", "redis": kind}


class _Line:
    """Counts the runs of the line that have ended on the worker that works it off."""

    def __init__(self) -> None:
        self.begun, self.ended = 0.0, 0
        self.over = asyncio.Event()

    async def __call__(self, ctx: RunContext) -> None:
        del ctx
        self.begun = self.begun or time.perf_counter()
        await asyncio.sleep(WORK)
        self.ended += 1
        if self.ended == LENGTH:
            self.over.set()


async def _until(event: asyncio.Event, ctx: RunContext) -> None:
    del ctx
    await event.wait()


async def _wait_in_line(manager: RunManager) -> None:
    for _ in range(LENGTH):
        manager.launch(await manager.create_or_reject("t", "agent", multitask_strategy="enqueue"))


async def _handed_over(store: _Store) -> float:
    """The thread is held by a run of the heir, which ends when the line has been handed over."""
    line, free = _Line(), asyncio.Event()
    async with open_coordinator(settings=Settings(**store), assistants={"agent": line}) as heir:
        await asyncio.sleep(0.5)  # until it is subscribed
        async with open_coordinator(
            settings=Settings(**store, grace=0.1), assistants={"agent": line}
        ) as home:
            heir.launch(await heir.create_or_reject("t"), lambda ctx: _until(free, ctx))
            await _wait_in_line(home)
        began = time.perf_counter()
        free.set()
        await asyncio.wait_for(line.over.wait(), 120)
        return time.perf_counter() - began


async def _left_behind(store: _Store) -> float:
    """The thread is held by a run of the worker that is killed; from the first run of the heir on, because
    how long a death takes to be found is another measurement."""
    line, context = _Line(), multiprocessing.get_context("spawn")
    waits = context.Event()
    home = context.Process(target=_in_line, args=(store, waits), daemon=True)
    given = Settings(**store, sweep=0.5)
    async with open_coordinator(settings=given, assistants={"agent": line}):
        home.start()
        await asyncio.to_thread(waits.wait, 60)
        os.kill(home.pid or 0, signal.SIGKILL)
        await asyncio.wait_for(line.over.wait(), 120)
        took = time.perf_counter() - line.begun
    await asyncio.to_thread(home.join, 10)
    return took


def _in_line(store: _Store, waits: Any) -> None:
    async def live() -> None:
        never = asyncio.Event()
        async with open_coordinator(settings=Settings(**store), assistants={"agent": _Line()}) as manager:
            manager.launch(await manager.create_or_reject("t"), lambda ctx: _until(never, ctx))
            await _wait_in_line(manager)
            waits.set()
            await never.wait()

    asyncio.run(live())
