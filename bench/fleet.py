"""A large installation, made by SQL: finished runs, runs in flight, waiting runs, workers. The triggers of
the tables are off meanwhile: the rows are as the transactions would have left them, without their audit.

Epochs 1..workers are live, those after them are dead and have no runs. Ids of runs grow with time, as those
of `coordinator.ids` do: `old…` finished, `run…` in flight, `wait…` waiting. Threads: `t0`, `t1`, …,
changed a second apart.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import asyncpg

from stores.sql.postgres.schema import named


class Fleet(NamedTuple):
    """Numbers of rows. The first `in_flight` threads are busy; waiting runs queue on them, portable, and are
    at home at a live worker."""

    finished: int = 1_000_000
    threads: int = 100_000
    workers: int = 1_000
    dead: int = 1_000
    in_flight: int = 50_000
    waiting: int = 100_000
    history: int = 0
    """Further finished runs, all of thread `t0`."""

    def part(self, share: float) -> Fleet:
        return Fleet(*(number and max(round(number * share), 1) for number in self))


_WORKERS = """
INSERT INTO rc.workers (worker_id, host, boot_id, pid, proof, version, state, ttl_ms, lease_until, started_at,
    assistants, fenced_by, fenced_at)
SELECT 'w' || n, 'h' || n, 'b' || n, n, 'p' || n, '0', CASE WHEN n <= $1 THEN 'live' ELSE 'dead' END, 15000,
    rc.clock(NULL) + 86400000000, 1, '{agent}', CASE WHEN n > $1 THEN 1 END, CASE WHEN n > $1 THEN 1 END
FROM generate_series(1, $1::bigint + $2::bigint) n
"""
_THREADS = """
INSERT INTO rc.threads (thread_id, user_id, assistant_id, fence, next_seq, metadata, "values", created_at,
    updated_at)
SELECT 't' || n, 'user' || n % 1000, 'agent', 1000, 1000, json_build_object('n', n % 5000)::text,
    json_build_object('n', n % 5000, 'text', repeat('x', 200))::text, n, n * 1000000
FROM generate_series(0, $1::bigint - 1) n
"""
_RUNS = """
INSERT INTO rc.runs (run_id, thread_id, user_id, assistant_id, status, holds_thread, owner_epoch, home_epoch,
    fence, seq, portable, multitask_strategy, kwargs, created_at, created_us, started_at, ended_at,
    settled_at, updated_at)
SELECT $1 || lpad(n::text, 9, '0'), 't' || n % $3, 'user' || n % $3 % 1000, 'agent', $4, $4 = 'running',
    CASE WHEN $4 <> 'pending' THEN 1 + n % $5 END, CASE WHEN $4 = 'pending' THEN 1 + n % $5 END,
    CASE WHEN $4 <> 'pending' THEN n / $3 + 1 ELSE 0 END, n, true, 'enqueue', '{"input": {"q": "hello"}}',
    '2026-01-01T00:00:00+00:00', $6 + n, CASE WHEN $4 <> 'pending' THEN $6 + n END,
    CASE WHEN $4 = 'success' THEN $6 + n END, CASE WHEN $4 = 'success' THEN $6 + n END, $6 + n
FROM generate_series(0, $2::bigint - 1) n
"""
BEGIN = 1_700_000_000_000_000  # us
HOUR = 3_600_000_000


def parts_of(fleet: Fleet) -> list[tuple[str, int, int, str]]:
    """Of each kind of runs: the prefix of their ids, how many, on how many threads, their status."""
    busy = min(fleet.in_flight, fleet.threads)
    return [
        ("old", fleet.finished, fleet.threads, "success"),
        ("run", fleet.in_flight, busy, "running"),
        ("wait", fleet.waiting, busy, "pending"),
        ("long", fleet.history, 1, "success"),
    ]


async def make(cx: asyncpg.Connection[Any], schema: str, fleet: Fleet) -> None:
    """Into a migrated schema with no rows. Analyzed and vacuumed at the end, as autovacuum leaves it."""

    def in_schema(statement: str) -> str:
        return named(statement, schema)

    await cx.execute(in_schema("ALTER TABLE rc.runs DISABLE TRIGGER USER"))
    await cx.execute(in_schema(_WORKERS), fleet.workers, fleet.dead)
    await cx.execute(in_schema(_THREADS), fleet.threads)
    for number, (prefix, count, among, status) in enumerate(parts_of(fleet)):
        begin = BEGIN + number * 1000 * HOUR
        await cx.execute(in_schema(_RUNS), prefix, count, among, status, fleet.workers, begin)
    await cx.execute(in_schema("ALTER TABLE rc.runs ENABLE TRIGGER USER"))
    for table in ("workers", "threads", "runs"):
        await cx.execute(in_schema(f"VACUUM ANALYZE rc.{table}"))
