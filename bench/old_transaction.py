"""A stranger's transaction that stays open on PostgreSQL: rate and latency of runs at full load, what grows.

Two databases of one server take the load by turns. In one of them a session has read in a repeatable-read
transaction and stays open, as a backup or a forgotten psql does: no dead row of that database is removed.
MINUTES (10) of load on each; rates and latencies are of the last third.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from contextlib import AsyncExitStack
from typing import NamedTuple
from uuid import uuid4

import asyncpg

from bench.databases import answer_of, fresh_database, open_stores, running_server, scaled
from bench.report import Measure, at_least, at_most, quantile
from stores.postgres import PostgresStore
from stores.rows import Limits, NewWorker, Outcome, Ownership
from stores.spec import AdmissionRequest, RunSpec
from stores.states import RunStatus

_BENCH = "old_transaction"
MINUTES = float(os.environ.get("MINUTES", "10"))
AT_ONCE = 50
THREADS = scaled(1_000, 100)
SLICE = 10.0
"""Seconds of load on one database before the other has its turn."""
TICK = 1.0
_DEAD = "SELECT n_dead_tup FROM pg_stat_user_tables WHERE schemaname = 'coordinator' AND relname = $1"
_SIZE = "SELECT pg_total_relation_size($1::regclass) / 1048576.0"


class Slice(NamedTuple):
    rate: float
    """Runs per second."""
    latencies: list[float]
    """ms, of admission, start and end of a run."""
    ticks: list[float]
    """ms"""


class Loaded:
    """A database with a worker on it. Each run is admitted to one of THREADS threads."""

    def __init__(self, store: PostgresStore, url: str, epoch: int) -> None:
        self.url, self.slices = url, list[Slice]()
        self._store, self._epoch = store, epoch
        self._executing = set[str]()
        self._numbers = itertools.count()

    async def turn(self, seconds: float) -> None:
        ends = time.perf_counter() + seconds
        latencies, ticks = list[float](), list[float]()

        async def runs() -> None:
            while (began := time.perf_counter()) < ends:
                await self._life()
                latencies.append((time.perf_counter() - began) * 1000)

        async def beats() -> None:
            while (began := time.perf_counter()) < ends:
                await self._store.tick(self._epoch, tuple(self._executing))
                await self._store.beat(self._epoch)
                ticks.append((time.perf_counter() - began) * 1000)
                await asyncio.sleep(min(TICK, max(ends - time.perf_counter(), 0)))

        await asyncio.gather(beats(), *(runs() for _ in range(AT_ONCE)))
        self.slices.append(Slice(len(latencies) / seconds, latencies, ticks))

    async def _life(self) -> None:
        thread = f"t{next(self._numbers) % THREADS}"
        request = AdmissionRequest(uuid4().hex, RunSpec(thread_id=thread), "2026-01-01T00:00:00+00:00")
        made = await self._store.admit(request, epoch=self._epoch, limits=Limits())
        own = Ownership(request.run_id, thread, self._epoch, made.fence)
        self._executing.add(own.run_id)
        await self._store.start(own, {})
        self._executing.remove(own.run_id)
        await self._store.finish(own, Outcome(RunStatus.success))

    def last(self) -> Slice:
        """Of the last third."""
        late = self.slices[-max(len(self.slices) // 3, 1) :]
        rate = sum(one.rate for one in late) / len(late)
        return Slice(
            rate, [ms for one in late for ms in one.latencies], [ms for one in late for ms in one.ticks]
        )


async def run(rounds: int) -> list[Measure]:
    del rounds  # the load lasts MINUTES
    with running_server() as server:
        async with AsyncExitStack() as stack:
            loaded = [await _loaded(server, stack) for _ in range(2)]
            without, with_it = loaded
            stranger = await asyncpg.connect(with_it.url)
            stack.push_async_callback(stranger.close)
            await stranger.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            await stranger.execute("SELECT count(*) FROM coordinator.runs")
            for number in range(max(round(MINUTES * 60 / SLICE), 1)):
                for one in loaded if number % 2 else reversed(loaded):
                    await one.turn(SLICE)
            return [*_compared(without.last(), with_it.last()), *await _grown(with_it)]


async def _loaded(server: str, stack: AsyncExitStack) -> Loaded:
    url = await stack.enter_async_context(fresh_database(server))
    (store,) = await stack.enter_async_context(open_stores(url, 1, 10))
    return Loaded(store, url, await store.register(NewWorker("bench", "here", "boot", 1, "0", 3_600_000)))


def _compared(without: Slice, with_it: Slice) -> list[Measure]:
    p99 = [quantile(one.latencies, 0.99) for one in (without, with_it)]
    ticks = [quantile(one.ticks, 0.5) for one in (without, with_it)]
    rates = f"{without.rate:,.0f} -> {with_it.rate:,.0f} runs/s"
    return [
        at_least(Measure(_BENCH, "rate", with_it.rate / without.rate, "x", note=rates), 0.9),
        at_most(
            Measure(_BENCH, "p99 of a run", p99[1] / p99[0], "x", note=f"{p99[0]:.0f} -> {p99[1]:.0f} ms"), 2
        ),
        Measure(_BENCH, "tick and beat, median", ticks[1], "ms", note=f"{ticks[0]:.1f} ms without"),
    ]


async def _grown(loaded: Loaded) -> list[Measure]:
    measures = list[Measure]()
    for table in ("runs", "threads", "workers"):
        dead = await answer_of(loaded.url, _DEAD, table)
        measures.append(Measure(_BENCH, f"dead rows of {table}", dead, ""))
    for name in ("runs", "threads", "transitions"):
        size = await answer_of(loaded.url, _SIZE, f"coordinator.{name}")
        measures.append(Measure(_BENCH, f"size of {name}, with indexes", float(size), "MiB"))
    return measures
