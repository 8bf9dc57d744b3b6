"""Events of runs of another process: how long after an emit a follower here has them."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from bench.databases import fresh_database, running_server
from bench.processes import WorkerProcess, workers
from bench.report import Measure, at_most, median, quantile
from coordinator import Event, RunManager, open_coordinator
from coordinator.servers.valkey import ValkeyServer

EVENTS, EVERY = 400, 0.02
"""Of each run, and the seconds between two of them: a model's tokens."""
AT_ONCE = (1, 10)
BOUNDS = {"SQLite": 60.0, "PostgreSQL": 15.0}
"""ms, of 99 in 100."""


async def run(rounds: int) -> list[Measure]:
    samples: dict[tuple[str, int], list[list[float]]] = {}
    with running_server() as postgres, ValkeyServer() as valkey:
        for _ in range(rounds):
            for where in ("SQLite", "PostgreSQL", "SQLite and Redis"):
                for at_once in AT_ONCE:
                    redis = valkey.url if where.endswith("Redis") else None
                    async with _store(where, postgres) as store:
                        samples.setdefault((where, at_once), []).append(await _measure(store, redis, at_once))
    return [measure for key, results in samples.items() for measure in _judged(key, results)]


def _judged(key: tuple[str, int], results: list[list[float]]) -> list[Measure]:
    where, at_once = key
    runs = "a run" if at_once == 1 else f"{at_once} runs"
    what = f"emit to a follower of {runs} on another worker, {where}"
    middle = Measure("events", f"{what}, median", median([median(one) for one in results]), "ms")
    late = Measure("events", f"{what}, 99 in 100", median([quantile(one, 0.99) for one in results]), "ms")
    return [middle, late if where not in BOUNDS else at_most(late, BOUNDS[where])]


@asynccontextmanager
async def _store(where: str, postgres: str) -> AsyncGenerator[str]:
    if where == "PostgreSQL":
        async with fresh_database(postgres) as url:
            yield url
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield f"sqlite:///{Path(folder) / 'runs.db'}"


async def _measure(store: str, redis: str | None, at_once: int) -> list[float]:
    """Milliseconds, of all events but those in which the owner learns that it is followed."""
    async with workers(1, store, redis) as (owner,), open_coordinator(store, redis=redis) as manager:
        delays = await asyncio.gather(*(_follow(manager, owner, f"t-{number}") for number in range(at_once)))
    return [late for one in delays for late in one[EVENTS // 10 :]]


async def _follow(manager: RunManager, owner: WorkerProcess, thread: str) -> list[float]:
    run_id = await owner.call("emit", thread=thread, events=EVENTS, every=EVERY)
    late = list[float]()
    async with manager.follow(run_id) as followed:
        async for item in followed:
            if isinstance(item, Event):
                late.append((time.monotonic_ns() - item.data["at"]) / 1e6)
    if len(late) != EVENTS:
        raise AssertionError(f"{len(late)} of {EVENTS} events")
    return late
