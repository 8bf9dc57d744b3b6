"""Runs as clients see them: with the shown status, without those that were rolled back."""

from __future__ import annotations

import sqlite3
from typing import Any

from stores.catalogue import Heavy
from stores.errors import ConflictError, RunNotFound, ThreadNotFound
from stores.pages import Cutter, Page
from stores.rows import RunRow
from stores.sql.codec import OPEN_STATUSES, RUN_COLUMNS, RUN_TEXTS, SHOWN_OPEN, run_columns, run_row
from stores.sql.readable import readable
from stores.sql.sqlite.codec import IN_FLIGHT, IN_FLIGHT_RUNS
from stores.sql.sqlite.records import delete

_STOPPING = (
    f"(status NOT IN {OPEN_STATUSES} AND settled_at IS NULL AND (holds_thread OR owner_epoch IS NOT NULL))"
)
_ROLLED_BACK = (
    "(COALESCE(cancel_action, '') = 'rollback' AND COALESCE(rollback_state, '') <> 'failed'"
    f" AND status NOT IN {OPEN_STATUSES} AND NOT {_STOPPING})"
)
_SHOWN = (
    f"CASE WHEN {_STOPPING} THEN 'running' WHEN COALESCE(rollback_state, '') = 'failed' THEN 'error'"
    " ELSE status END"
)
"""The same conditions as `RunRow.stopping`, `.rolled_back` and `.shown_status`."""


_HISTORY = "runs INDEXED BY runs_history WHERE thread_id = :thread"
_UNSETTLED = (
    "runs WHERE run_id IN ("
    f"SELECT run_id FROM {IN_FLIGHT_RUNS} WHERE thread_id = :thread AND {IN_FLIGHT}"
    " UNION ALL SELECT run_id FROM runs INDEXED BY runs_beside_of_thread WHERE thread_id = :thread"
    " AND NOT holds_thread AND owner_epoch IS NOT NULL AND settled_at IS NULL)"
)
"""The source of a thread's runs. Those that are shown as pending or running have not settled: they are read
without the thread's history."""


def run(cx: sqlite3.Connection, run_id: str, thread_id: str | None, user_id: str | None) -> RunRow | None:
    row = cx.execute(
        f"SELECT {RUN_COLUMNS} FROM runs WHERE run_id = :run AND kind = 'run' AND NOT {_ROLLED_BACK}"
        " AND (:thread IS NULL OR thread_id = :thread) AND (:user IS NULL OR user_id = :user)",
        {"run": run_id, "thread": thread_id, "user": user_id},
    ).fetchone()
    return None if row is None else run_row(row)


def thread_of_key(cx: sqlite3.Connection, key: str, user_id: str | None) -> str | None:
    row = cx.execute(
        "SELECT thread_id FROM runs WHERE idempotency_key = ? AND COALESCE(user_id, '') = ?"
        " ORDER BY run_id LIMIT 1",
        (key, user_id or ""),
    ).fetchone()
    return None if row is None else row[0]


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
    where, args = _narrowed(statuses, user_id)
    runs = _UNSETTLED if statuses and SHOWN_OPEN.issuperset(statuses) else _HISTORY
    rows = cx.execute(
        f"SELECT {run_columns(without)} FROM {runs}{where}"
        f" AND NOT {_ROLLED_BACK} ORDER BY created_us DESC, run_id LIMIT :limit OFFSET :offset",
        {**args, "thread": thread_id, "limit": limit, "offset": offset},
    )
    cutter = Cutter(max_bytes, RUN_TEXTS)
    return cutter.page(readable("run", cutter.rows(rows), run_row))


def inflight_runs(
    cx: sqlite3.Connection,
    *,
    statuses: tuple[str, ...],
    thread_id: str | None,
    user_id: str | None,
    after: str,
    limit: int,
) -> list[RunRow]:
    where, args = _narrowed(statuses, user_id)
    if thread_id is not None:
        where += " AND thread_id = :thread"
        args["thread"] = thread_id
    rows = cx.execute(
        f"SELECT {RUN_COLUMNS} FROM {IN_FLIGHT_RUNS} WHERE {IN_FLIGHT}{where}"
        " AND run_id > :after ORDER BY run_id LIMIT :limit",
        {**args, "after": after, "limit": limit},
    )
    return readable("run", rows, run_row)


def _narrowed(statuses: tuple[str, ...], user_id: str | None) -> tuple[str, dict[str, Any]]:
    where, args = " AND kind = 'run'", dict[str, Any]()
    if user_id is not None:
        where += " AND user_id = :user"
        args["user"] = user_id
    if statuses:
        named = {f"status{at}": status for at, status in enumerate(statuses)}
        where += f" AND {_SHOWN} IN ({', '.join(f':{name}' for name in named)})"
        args.update(named)
    return where, args


def delete_run(
    cx: sqlite3.Connection, now: int, run_id: str, thread_id: str | None, user_id: str | None
) -> RunRow:
    deleted = run(cx, run_id, thread_id, user_id)
    if deleted is None:
        raise RunNotFound(run_id)
    if deleted.open or deleted.stopping:
        raise ConflictError(deleted.thread_id, run_id)
    delete(cx, now, run_id)
    return deleted
