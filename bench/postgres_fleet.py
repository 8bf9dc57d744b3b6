"""What the server takes for statements of one worker among a thousand, with JIT and without: bench/fleet.py.
A server with JIT: COORDINATOR_TEST_POSTGRES_BIN=/usr/lib/postgresql/15/bin."""

from __future__ import annotations

import time
from typing import Any

import asyncpg

from bench.databases import SCALE, fresh_database, open_stores, running_server
from bench.fleet import Fleet, make
from bench.report import Measure, at_most, median
from stores.sql import reads
from stores.sql.postgres import reading, workers
from stores.sql.postgres.calls import Call
from stores.sql.postgres.schema import named
from stores.sql.postgres.selecting import select

_BENCH = "postgres_fleet"
_SCHEMA = "coordinator"
_EPOCH = 5


async def run(rounds: int) -> list[Measure]:
    measures: list[Measure] = []
    with running_server() as server:
        async with fresh_database(server) as url, open_stores(url, 1, 2):
            cx = await asyncpg.connect(url)
            try:
                fleet = Fleet().part(SCALE)
                await make(cx, _SCHEMA, fleet)
                for jit in ("on", "off"):
                    await cx.execute(f"SET jit = {jit}")
                    measures += await _fleet(cx, jit, max(rounds * 20, 20))
                for in_flight in (1_000, 5_000, fleet.in_flight + fleet.waiting):
                    measures.append(await _page(cx, in_flight, max(rounds * 5, 5)))
            finally:
                await cx.close()
    return measures


async def _median(cx: asyncpg.Connection, call: Call[Any], count: int) -> float:
    """ms, with the way to the server, after plans have settled."""
    took: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        await cx.fetch(named(call.statement.sql, _SCHEMA), *call.args)
        took.append((time.perf_counter() - began) * 1000)
    return median(took[min(7, count - 1) :])


async def _fleet(cx: asyncpg.Connection, jit: str, count: int) -> list[Measure]:
    sweep = sum(
        [
            await _median(cx, call, count)
            for call in (
                workers.adopted_before(_EPOCH), workers.orphaned(None), workers.settle_strays(None),
            )
        ]
    )  # fmt: skip
    peers = await _median(cx, workers.workers(None, alive_only=True, counted=False), count)
    tick = await _median(cx, reading.tick(_EPOCH, None, ()), count)
    return [
        at_most(Measure(_BENCH, f"a sweep, jit {jit}", sweep, "ms", note="three statements"), 1),
        Measure(_BENCH, f"a sweep's look at its peers, jit {jit}", peers, "ms"),
        at_most(Measure(_BENCH, f"a tick, jit {jit}", tick, "ms", note="100 runs wait here"), 2),
    ]


async def _page(cx: asyncpg.Connection, in_flight: int, count: int) -> Measure:
    """The first page where so many are in flight; the others are finished for that time."""
    page = select(reads.inflight_runs(statuses=(), thread_id=None, user_id=None, after="", limit=100))
    async with cx.transaction():
        await cx.execute("SET LOCAL session_replication_role = replica")
        await cx.execute(
            "UPDATE coordinator.runs SET status = 'success', holds_thread = false, settled_at = 1"
            " WHERE run_id IN (SELECT run_id FROM coordinator.runs WHERE settled_at IS NULL"
            " ORDER BY run_id OFFSET $1)",
            in_flight,
        )
        await cx.execute("ANALYZE coordinator.runs")
        took = await _median(cx, page, count)
        await cx.execute("SET LOCAL session_replication_role = origin")
    return at_most(Measure(_BENCH, f"a page of {in_flight:,} runs in flight", took, "ms"), 20)
