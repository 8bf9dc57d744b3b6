"""Projections: changes of runs, queued by triggers, delivered by one worker at a time under a claim."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from stores.errors import EpochDead
from stores.projections import AMENDED, DELETED, EXISTING, FailedChange, RunChange
from stores.rows import RunRow
from stores.sql.codec import dumps, run_columns, run_row, storable
from stores.sql.projections import PAGE
from stores.sql.readable import readable
from stores.sql.sqlite.codec import IN_JSON
from stores.sql.sqlite.guards import is_dead

_QUEUE = "INSERT INTO run_changes (projection, run_id, thread_id, at, what) SELECT name"
_TRIGGERS = {
    "transitions_projected": "AFTER INSERT ON transitions BEGIN"
    f" {_QUEUE}, NEW.run_id, NEW.thread_id, NEW.at, NEW.what FROM projections; END",
    # Counters and the like of a run that has settled: they have no audit.
    "runs_amended": "AFTER UPDATE ON runs WHEN OLD.settled_at IS NOT NULL BEGIN"
    f" {_QUEUE}, NEW.run_id, NEW.thread_id, NEW.updated_at, '{AMENDED}' FROM projections; END",
    "runs_deleted": "AFTER DELETE ON runs WHEN OLD.kind = 'run' BEGIN"
    f" {_QUEUE}, OLD.run_id, OLD.thread_id, OLD.updated_at, '{DELETED}' FROM projections; END",
}
"""Made with the first projection and dropped with the last: they cost a run 4 % where nothing is queued."""


def add(cx: sqlite3.Connection, now: int, name: str) -> None:
    """Later changes have numbers greater than `now`, also in a store that was copied or restored."""
    for trigger, definition in _TRIGGERS.items():
        cx.execute(f"CREATE TRIGGER IF NOT EXISTS {trigger} {definition}")
    cx.execute(
        "INSERT INTO projections (name, filled_to, created_at)"
        " VALUES (?, (SELECT '' FROM runs LIMIT 1), ?) ON CONFLICT DO NOTHING",
        (name, now),
    )
    cx.execute(
        "INSERT INTO sqlite_sequence (name, seq) SELECT 'run_changes', 0"
        " WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'run_changes')"
    )
    cx.execute("UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = 'run_changes'", (now,))


def remove(cx: sqlite3.Connection, now: int, name: str) -> bool:  # noqa: ARG001 - every transaction gets a clock
    cx.execute("DELETE FROM run_changes WHERE projection = ?", (name,))
    removed = cx.execute("DELETE FROM projections WHERE name = ?", (name,)).rowcount > 0
    if cx.execute("SELECT 1 FROM projections").fetchone() is None:
        for trigger in _TRIGGERS:
            cx.execute(f"DROP TRIGGER IF EXISTS {trigger}")
    return removed


_FAILED = (
    "SELECT thread_id FROM run_changes INDEXED BY run_changes_failed"
    " WHERE projection = :name AND next_at IS NOT NULL AND next_at > :now"
)
_READY = (
    "run_changes INDEXED BY run_changes_order"
    f" WHERE projection = :name AND thread_id NOT IN ({_FAILED}) ORDER BY seq LIMIT :limit"
)
_NEXT = (
    f"SELECT filled_to IS NOT NULL OR EXISTS (SELECT 1 FROM {_READY}),"
    " (SELECT min(next_at) FROM run_changes INDEXED BY run_changes_failed"
    " WHERE projection = :name AND next_at IS NOT NULL)"
    " FROM projections WHERE name = :name"
)


def next_due(cx: sqlite3.Connection, name: str, now: int) -> float | None:
    row = cx.execute(_NEXT, {"name": name, "now": now, "limit": 1}).fetchone()
    if row is None:
        return None
    ready, failed = row
    return 0.0 if ready else None if failed is None else max(0.0, (failed - now) / 1e6)


_CLAIM = (
    "UPDATE projections SET claimed_by = :epoch, claimed_until = :now + :lease WHERE name = :name"
    " AND (claimed_by IS NULL OR claimed_by = :epoch OR claimed_until <= :now"
    " OR NOT EXISTS (SELECT 1 FROM workers WHERE epoch = claimed_by AND state <> 'dead'))"
    " RETURNING filled_to"
)
_PAGE = f"SELECT seq, run_id, thread_id, at, what, attempts FROM {_READY}"


def claim(
    cx: sqlite3.Connection, now: int, name: str, epoch: int, lease: int, *, limit: int
) -> list[RunChange] | None:
    if is_dead(cx, epoch):
        raise EpochDead(epoch)
    parameters = {"name": name, "epoch": epoch, "now": now, "lease": lease, "limit": limit}
    claimed = cx.execute(_CLAIM, parameters).fetchone()
    if claimed is None:
        return None
    if claimed[0] is not None:
        _fill(cx, name, claimed[0], now)
    page = cx.execute(_PAGE, parameters).fetchall()
    runs = _runs(cx, {row[1] for row in page})
    return [
        RunChange(seq, run_id, thread_id, at, what, attempts + 1, runs.get(run_id))
        for seq, run_id, thread_id, at, what, attempts in page
    ]


def _fill(cx: sqlite3.Connection, name: str, after: str, now: int) -> None:
    """Queues a page of the runs that existed before the projection."""
    runs = cx.execute(
        "SELECT run_id, thread_id FROM runs WHERE run_id > ? ORDER BY run_id LIMIT ?", (after, PAGE)
    ).fetchall()
    cx.executemany(
        "INSERT INTO run_changes (projection, run_id, thread_id, at, what) VALUES (?, ?, ?, ?, ?)",
        [(name, run_id, thread_id, now, EXISTING) for run_id, thread_id in runs],
    )
    filled_to = runs[-1][0] if len(runs) == PAGE else None
    cx.execute("UPDATE projections SET filled_to = ? WHERE name = ?", (filled_to, name))


def _runs(cx: sqlite3.Connection, run_ids: set[str]) -> dict[str, RunRow]:
    rows = cx.execute(f"SELECT {run_columns(())} FROM runs WHERE run_id {IN_JSON}", (dumps(sorted(run_ids)),))
    return {run.run_id: run for run in readable("run", rows.fetchall(), run_row)}


def report(
    cx: sqlite3.Connection,
    now: int,
    name: str,
    epoch: int,
    delivered: Sequence[int],
    *,
    failed: Sequence[FailedChange],
) -> None:
    ended = cx.execute(
        "UPDATE projections SET claimed_by = NULL, claimed_until = NULL WHERE name = ? AND claimed_by = ?",
        (name, epoch),
    )
    if ended.rowcount == 0:
        return
    cx.execute(
        f"DELETE FROM run_changes WHERE seq {IN_JSON} AND projection = ?", (dumps(list(delivered)), name)
    )
    cx.executemany(
        "UPDATE run_changes SET attempts = attempts + 1, next_at = ?, error = ?"
        " WHERE seq = ? AND projection = ?",
        [(now + one.retry_in, storable(one.error), one.seq, name) for one in failed],
    )
