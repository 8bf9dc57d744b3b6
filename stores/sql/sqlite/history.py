"""Runs as clients see them: with the shown status, without those that were rolled back."""

from __future__ import annotations

import sqlite3

from stores.catalogue import Heavy
from stores.errors import ConflictError, RunNotFound, ThreadNotFound
from stores.pages import Cutter, Page
from stores.rows import RunRow
from stores.sql.codec import RUN_TEXTS, SHOWN_OPEN, run_columns, run_row
from stores.sql.conditions import IN_FLIGHT, ROLLED_BACK
from stores.sql.readable import readable
from stores.sql.reads import narrowed, run
from stores.sql.sqlite.codec import IN_FLIGHT_RUNS
from stores.sql.sqlite.records import delete
from stores.sql.sqlite.selecting import select

_HISTORY = "runs INDEXED BY runs_history WHERE thread_id = :thread"
_UNSETTLED = (
    "runs WHERE run_id IN ("
    f"SELECT run_id FROM {IN_FLIGHT_RUNS} WHERE thread_id = :thread AND {IN_FLIGHT}"
    " UNION ALL SELECT run_id FROM runs INDEXED BY runs_beside_of_thread WHERE thread_id = :thread"
    " AND NOT holds_thread AND owner_epoch IS NOT NULL AND settled_at IS NULL)"
)
"""The source of a thread's runs. Those that are shown as pending or running have not settled: they are read
without the thread's history."""


def thread_runs(
    cx: sqlite3.Connection,
    thread_id: str,
    *,
    statuses: tuple[str, ...],
    limit: int,
    offset: int,
    user_id: str | None,
    without: frozenset[Heavy],
    max_bytes: int | None,
) -> Page[RunRow]:
    thread = cx.execute(
        "SELECT 1 FROM threads WHERE thread_id = :thread AND (:user IS NULL OR user_id = :user)",
        {"thread": thread_id, "user": user_id},
    ).fetchone()
    if thread is None:
        raise ThreadNotFound(thread_id)
    where, args = narrowed(statuses, user_id)
    runs = _UNSETTLED if statuses and SHOWN_OPEN.issuperset(statuses) else _HISTORY
    rows = cx.execute(
        f"SELECT {run_columns(without)} FROM {runs} AND {where}"
        f" AND NOT {ROLLED_BACK} ORDER BY created_us DESC, run_id LIMIT :limit OFFSET :offset",
        {**args, "thread": thread_id, "limit": limit, "offset": offset},
    )
    cutter = Cutter(max_bytes, RUN_TEXTS)
    return cutter.page(readable("run", cutter.rows(rows), run_row))


def delete_run(
    cx: sqlite3.Connection, now: int, run_id: str, thread_id: str | None, user_id: str | None
) -> RunRow:
    deleted = select(cx, run(run_id, thread_id, user_id))
    if deleted is None:
        raise RunNotFound(run_id)
    if deleted.open or deleted.stopping:
        raise ConflictError(deleted.thread_id, run_id)
    delete(cx, now, run_id)
    return deleted
