"""CPU, WAL and index entries of a run on a PostgreSQL server, beside three statements that commit one by one.

A run is admitted, launched and waited for on a new thread, as by the gateway (two commits); that of an
unregistered function by `create_or_reject` (three). The floor inserts a row and updates it twice, through the
same driver. CPU is that of all server processes, WAL is without full-page images. The server needs
pg_walinspect (PostgreSQL 15) and must be on this host.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple
from uuid import uuid4

import asyncpg

from bench.cpu import cpu_seconds
from bench.databases import fresh_database, running_server, scaled
from bench.report import Measure, at_most, median
from bench.throughput import ASSISTANTS, by_gateway, by_launch
from coordinator import open_coordinator

_BENCH = "postgres_cost"
AT_ONCE = 50
COUNTS = {1: scaled(300, 50), AT_ONCE: scaled(2000, 200)}
WAL_TARGET = 3_500  # bytes a run
CPU_OVER_FLOOR = 1.3

_FLOOR = "CREATE TABLE floor (id text PRIMARY KEY, status text, body text) WITH (fillfactor = 70)"
_INDEX_ENTRIES = (
    'SELECT sum(count)::float FROM pg_get_wal_stats($1, $2, true) WHERE "resource_manager/record_type" IN'
    " ('Btree/INSERT_LEAF', 'Btree/INSERT_POST', 'Btree/SPLIT_L', 'Btree/SPLIT_R')"
)
_BY_INDEX = (
    "SELECT c.relname, count(*)::float FROM pg_get_wal_block_info($1, $2) w"
    " JOIN pg_class c ON c.relfilenode = w.relfilenode"
    " WHERE w.resource_manager = 'Btree' AND w.record_type LIKE 'INSERT%' GROUP BY 1 ORDER BY 2 DESC, 1"
)
_WAL = "SELECT sum(record_size)::float FROM pg_get_wal_stats($1, $2, false)"

Life = Callable[[], Awaitable[None]]


class Cost(NamedTuple):
    """Of one run, or of one row of the floor."""

    cpu: float  # us
    wal: float  # bytes, without full-page images
    index_entries: float
    by_index: dict[str, float]
    """Known from PostgreSQL 16 on."""


async def run(rounds: int) -> list[Measure]:
    costs: dict[tuple[str, int], list[Cost]] = {}
    with running_server() as server:
        async with fresh_database(server) as url, open_coordinator(url, assistants=ASSISTANTS) as manager:
            admin = await asyncpg.connect(url)
            await admin.execute("CREATE EXTENSION pg_walinspect")
            await admin.execute(_FLOOR)
            pool = await asyncpg.create_pool(url, min_size=AT_ONCE, max_size=AT_ONCE, reset=_no_reset)
            names = itertools.count()
            loads: dict[str, Life] = {
                "a run": lambda: by_gateway(manager, f"thread-{next(names)}"),
                "a run of an unregistered function": lambda: by_launch(manager, f"thread-{next(names)}"),
                "three statements": lambda: _three_statements(pool),
            }
            try:
                for number in range(rounds):
                    for at_once, count in COUNTS.items():
                        for what in list(loads)[:: 1 if number % 2 else -1]:
                            cost = await _measured(admin, loads[what], at_once, count)
                            costs.setdefault((what, at_once), []).append(cost)
            finally:
                await pool.close()
                await admin.close()
    return [measure for at_once in COUNTS for measure in _judged(costs, at_once)]


async def _no_reset(cx: object) -> None:
    """A connection that is released is not reset: that would be a fourth statement."""
    del cx


async def _three_statements(pool: asyncpg.Pool[Any]) -> None:
    row_id = uuid4().hex
    async with pool.acquire() as cx:
        await cx.execute("INSERT INTO floor VALUES ($1, 'pending', $2)", row_id, "x" * 200)
        await cx.execute("UPDATE floor SET status = 'running' WHERE id = $1", row_id)
        await cx.execute("UPDATE floor SET status = 'success' WHERE id = $1", row_id)


async def _measured(admin: asyncpg.Connection[Any], life: Life, at_once: int, count: int) -> Cost:
    async def lives(number: int) -> None:
        for _ in range(number):
            await life()

    each = count // at_once
    await admin.execute("CHECKPOINT")
    await asyncio.gather(*(lives(max(each // 10, 2)) for _ in range(at_once)))
    pids = [
        row[0] for row in await admin.fetch("SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    ]
    began, cpu = await _position(admin), cpu_seconds(pids)
    await asyncio.gather(*(lives(each) for _ in range(at_once)))
    cpu = cpu_seconds(pids) - cpu
    ended = await _position(admin)
    wal, entries = [await admin.fetchval(query, began, ended) for query in (_WAL, _INDEX_ENTRIES)]
    runs = each * at_once
    by_index: dict[str, float] = {}
    if admin.get_server_version().major >= 16:
        by_index = {name: count / runs for name, count in await admin.fetch(_BY_INDEX, began, ended)}
    return Cost(cpu / runs * 1e6, wal / runs, (entries or 0) / runs, by_index)


async def _position(admin: asyncpg.Connection[Any]) -> str:
    """pg_get_wal_stats reads only what was flushed."""
    await admin.execute("SELECT pg_logical_emit_message(true, 'bench', '')")
    position: str = await admin.fetchval("SELECT pg_current_wal_flush_lsn()")
    return position


def _judged(costs: dict[tuple[str, int], list[Cost]], at_once: int) -> list[Measure]:
    run, floor = costs["a run", at_once], costs["three statements", at_once]
    measures: list[Measure] = []
    for what in ("a run", "a run of an unregistered function", "three statements"):
        each = costs[what, at_once]
        name = f"{what}, {at_once} at once"
        wal = Measure(_BENCH, f"{name}, WAL", median([cost.wal for cost in each]), "bytes")
        entries = median([cost.index_entries for cost in each])
        indexes = ", ".join(
            f"{index} {count:.1f}" for index, count in each[-1].by_index.items() if count >= 0.1
        )
        measures += [
            Measure(_BENCH, f"{name}, server", median([cost.cpu for cost in each]), "us CPU"),
            at_most(wal, WAL_TARGET) if what == "a run" else wal,
            Measure(_BENCH, f"{name}, index entries", entries, "", note=indexes),
        ]
    ratio = median([one.cpu / other.cpu for one, other in zip(run, floor, strict=True)])
    over = Measure(_BENCH, f"a run over three statements, {at_once} at once, server", ratio, "x CPU")
    return [*measures, at_most(over, CPU_OVER_FLOOR) if at_once > 1 else over]
