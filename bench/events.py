"""Event logs: what an emit costs, how fast a log is read, what many followers cost while nothing happens."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from bench import following
from bench.report import Measure, median
from coordinator import Event, RunContext, RunManager, open_coordinator
from coordinator.servers.valkey import ValkeyServer

RUNS, EACH = 50, 400
LONG = 10_000
IDLE, WATCHED = 333, 5.0
"""Followers of quiet runs on one worker, and for how many seconds they are watched."""

TOKEN = {"type": "token", "content": "some words of an answer", "id": "msg-1"}


async def run(rounds: int) -> list[Measure]:
    samples: dict[tuple[str, str], list[float]] = {}
    with ValkeyServer() as server:
        for _ in range(rounds):
            for redis in (None, server.url):
                for key, value in (await _measure(redis)).items():
                    where = "Redis" if redis else "no Redis"
                    samples.setdefault((f"{key[0]}, {where}", key[1]), []).append(value)
    measures = [Measure("events", what, median(values), unit) for (what, unit), values in samples.items()]
    return [*measures, *await following.run(rounds)]


async def _measure(redis: str | None) -> dict[tuple[str, str], float]:
    async with _manager(redis) as manager:
        return {**await _emits(manager), **await _follows(manager), **await _idles(manager)}


@asynccontextmanager
async def _manager(redis: str | None) -> AsyncGenerator[RunManager]:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'runs.db'}"
        async with open_coordinator(url, redis=redis) as manager:
            yield manager


async def _emits(manager: RunManager) -> dict[tuple[str, str], float]:
    async def agent(ctx: RunContext) -> None:
        for _ in range(EACH):
            await ctx.emit("custom", TOKEN)

    records = [await manager.create_or_reject(f"emit-{number}") for number in range(RUNS)]
    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(manager.launch(record, agent) for record in records))
    took, used = time.perf_counter() - began, time.process_time() - cpu
    events = RUNS * EACH
    what = f"{RUNS} runs emitting at once"
    return {(what, "events/s"): events / took, (what, "us CPU an event"): used / events * 1e6}


async def _follows(manager: RunManager) -> dict[tuple[str, str], float]:
    async def agent(ctx: RunContext) -> None:
        for _ in range(LONG // 100):
            await asyncio.gather(*(ctx.emit("custom", TOKEN) for _ in range(100)))

    record = await manager.create_or_reject("follow")
    await manager.launch(record, agent)
    began, cpu, seen = time.perf_counter(), time.process_time(), 0
    async with manager.follow(record.run_id) as followed:
        async for item in followed:
            seen += isinstance(item, Event)
    took, used = time.perf_counter() - began, time.process_time() - cpu
    if seen < LONG * 0.9:
        raise AssertionError(f"{seen} of {LONG} events")
    what = f"one follower reads {LONG:,} events"
    return {(what, "events/s"): seen / took, (what, "us CPU an event"): used / seen * 1e6}


async def _idles(manager: RunManager) -> dict[tuple[str, str], float]:
    stop = asyncio.Event()

    async def agent(ctx: RunContext) -> None:
        await ctx.emit("custom", TOKEN)
        await stop.wait()

    async def follow(run_id: str) -> None:
        async with manager.follow(run_id) as followed:
            async for item in followed:
                if isinstance(item, Event):
                    ready.release()

    ready = asyncio.Semaphore(0)
    records = [await manager.create_or_reject(f"idle-{number}") for number in range(IDLE)]
    tasks = [manager.launch(record, agent) for record in records]
    followers = [asyncio.create_task(follow(record.run_id)) for record in records]
    for _ in range(IDLE):
        await ready.acquire()
    cpu = time.process_time()
    await asyncio.sleep(WATCHED)
    used = time.process_time() - cpu
    stop.set()
    await asyncio.gather(*tasks, *followers)
    return {(f"{IDLE} followers of quiet runs", "% of a core"): used / WATCHED * 100}
