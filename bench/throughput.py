"""Whole lives of runs a second, and what one costs: admit + start + finish, one process, SQLite FULL."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from bench.report import Measure, at_least, at_most, median
from coordinator import RunContext, RunManager, RunStatus, open_coordinator
from coordinator.servers.valkey import ValkeyServer

RUNS = 6_000
Life = Callable[[RunManager, str], Awaitable[None]]


async def by_status(manager: RunManager, thread_id: str) -> None:
    """Admit, start, finish, as a caller with a task of its own does it."""
    run = await manager.create_or_reject(thread_id, "agent", kwargs={"q": 1})
    await manager.start(run.run_id)
    await manager.set_status(run.run_id, RunStatus.success)


async def by_launch(manager: RunManager, thread_id: str) -> None:
    """The same through `launch` and `wait`, with a result."""
    run = await manager.create_or_reject(thread_id, "agent", kwargs={"q": 1})
    manager.launch(run, _agent)
    await manager.wait(run.run_id)


async def by_gateway(manager: RunManager, thread_id: str) -> None:
    """As the gateway does it, with ASSISTANTS: the run starts as soon as it has its thread."""
    run = await manager.admit(manager.spec(thread_id, "agent", kwargs={"q": 1}), start=True)
    manager.launch(run)
    await manager.wait(run.run_id)


async def _agent(ctx: RunContext) -> dict[str, bool]:
    ctx.check()
    return {"done": True}


ASSISTANTS = {"agent": _agent}


async def run(rounds: int) -> list[Measure]:
    with ValkeyServer() as server:
        samples: dict[tuple[str, str, int], list[tuple[float, float]]] = {}
        for _ in range(rounds):
            for redis in (None, server.url):
                for life in (by_status, by_launch):
                    for at_once in (50, 200):
                        key = ("Redis" if redis else "no Redis", life.__name__, at_once)
                        samples.setdefault(key, []).append(await _measure(redis, life, at_once))
    return [measure for key, results in samples.items() for measure in _judge(key, results)]


def _judge(key: tuple[str, str, int], results: list[tuple[float, float]]) -> list[Measure]:
    redis, life, at_once = key
    rate, cpu = (median([result[column] for result in results]) for column in (0, 1))
    what = f"{life}, {at_once} at once, {redis}"
    if life == "by_status" and at_once == 50:
        bound = 3_000 if redis == "Redis" else 5_000
        judged = [at_least(Measure("throughput", what, rate, "runs/s"), bound)]
        if redis == "Redis":
            return [*judged, at_most(Measure("throughput", what, cpu, "us CPU a run"), 300)]
        return [*judged, Measure("throughput", what, cpu, "us CPU a run")]
    return [Measure("throughput", what, rate, "runs/s"), Measure("throughput", what, cpu, "us CPU a run")]


async def _measure(redis: str | None, life: Life, at_once: int) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'runs.db'}"
        async with open_coordinator(url, redis=redis) as manager:
            await lives(manager, life, at_once, RUNS // 10)  # warm-up
            began, cpu = time.perf_counter(), time.process_time()
            await lives(manager, life, at_once, RUNS)
            took, used = time.perf_counter() - began, time.process_time() - cpu
    return RUNS / took, used / RUNS * 1e6


async def lives(manager: RunManager, life: Life, at_once: int, runs: int) -> None:
    left = itertools.count()

    async def one_after_another(thread_id: str) -> None:
        while next(left) < runs:
            await life(manager, thread_id)

    await asyncio.gather(*(one_after_another(f"thread-{number}") for number in range(at_once)))
