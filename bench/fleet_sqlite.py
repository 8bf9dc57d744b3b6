"""The installation of bench/fleet.py in an SQLite file: same rows and ids, all workers on the host `here`."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from bench.fleet import BEGIN, HOUR, Fleet, parts_of

_NUMBERS = "WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < :count - 1)"
_WORKERS = f"""
{_NUMBERS}
INSERT INTO workers (worker_id, host, boot_id, pid, proof, version, state, ttl_ms, lease_until, started_at,
    assistants, fenced_by, fenced_at)
SELECT 'w' || n, 'here', 'b' || n, n, 'p' || n, '0', iif(n < :live, 'live', 'dead'), 15000, 1 << 60, 1,
    '["agent"]', iif(n < :live, NULL, 1), iif(n < :live, NULL, 1)
FROM numbers
"""  # noqa: S608 - constants of this module
_THREADS = f"""
{_NUMBERS}
INSERT INTO threads (thread_id, user_id, assistant_id, fence, next_seq, metadata, "values", created_at,
    updated_at)
SELECT 't' || n, 'user' || (n % 1000), 'agent', 1000000, 1000000, json_object('n', n % 5000),
    json_object('n', n % 5000, 'text', printf('%.200c', 'x')), n, n * 1000000
FROM numbers
"""  # noqa: S608 - constants of this module
_RUNS = f"""
{_NUMBERS}
INSERT INTO runs (run_id, thread_id, user_id, assistant_id, status, holds_thread, owner_epoch, home_epoch,
    fence, seq, portable, multitask_strategy, kwargs, created_at, created_us, started_at, ended_at,
    settled_at, updated_at)
SELECT :prefix || printf('%09d', n), 't' || (n % :among), 'user' || (n % :among % 1000), 'agent', :status,
    :status = 'running', iif(:status <> 'pending', 1 + n % :live, NULL),
    iif(:status = 'pending', 1 + n % :live, NULL), iif(:status <> 'pending', n / :among + 1, 0), n, 1,
    'enqueue', '{{"input": {{"q": "hello"}}}}', '2026-01-01T00:00:00+00:00', :begin + n,
    iif(:status <> 'pending', :begin + n, NULL), iif(:status = 'success', :begin + n, NULL),
    iif(:status = 'success', :begin + n, NULL), :begin + n
FROM numbers
"""  # noqa: S608 - constants of this module


def make(path: Path, fleet: Fleet) -> None:
    """Fills a store that has no rows and that no process has open. Without audit, as in bench/fleet.py."""
    with closing(sqlite3.connect(path, isolation_level=None)) as cx:
        cx.executescript("PRAGMA synchronous = off; BEGIN")
        dropped = cx.execute(
            "SELECT type, name, sql FROM sqlite_master"
            " WHERE sql IS NOT NULL AND (type = 'trigger' OR type = 'index') ORDER BY type"
        ).fetchall()
        for kind, name, _ in dropped:
            cx.execute(f"DROP {kind} {name}")
        _insert(cx, _WORKERS, fleet.workers + fleet.dead, live=fleet.workers)
        _insert(cx, _THREADS, fleet.threads)
        for number, part in enumerate(parts_of(fleet)):
            prefix, count, among, status = part
            begin = BEGIN + number * 1000 * HOUR
            values = {"prefix": prefix, "among": among, "status": status, "begin": begin}
            _insert(cx, _RUNS, count, live=fleet.workers, **values)
        for _, _, sql in dropped:
            cx.execute(sql)
        cx.execute("COMMIT")
    with path.open("rb") as file:
        os.fsync(file.fileno())  # otherwise the first measurements pay for its gigabytes


def _insert(cx: sqlite3.Connection, statement: str, count: int, **values: Any) -> None:
    if count:
        cx.execute(statement, {"count": count, **values})
