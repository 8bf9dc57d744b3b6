"""Threads as clients create, change, search and delete them. See `stores.catalogue`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from stores.catalogue import NewThread, RemovedThread, ThreadPatch, ThreadQuery
from stores.errors import ThreadExists, ThreadNotFound
from stores.json_values import JsonObject
from stores.pages import Cutter, Page
from stores.rows import ThreadRow
from stores.spec import AdmissionRequest
from stores.sql.codec import dumps, dumps_or_null
from stores.sql.columns import Columns
from stores.sql.conditions import IN_FLIGHT
from stores.sql.readable import readable
from stores.sql.sqlite.codec import IN_FLIGHT_RUNS
from stores.sql.sqlite.contains import containing
from stores.sql.sqlite.reading import STATUS, THREAD_COLUMNS, WITH_LAST, thread
from stores.sql.sqlite.thread_states import leave
from stores.sql.thread_codec import THREAD_TEXTS, thread_row

_SECOND = 1_000_000
_FENCE_KEPT = 86_400 * _SECOND
"""us. Longer than the lifetime of everything that carries the fence of a temporary thread: a slot in Redis, a
log, a paused worker."""
_UNUSED = 60_000
"""ms. A temporary thread without any run is kept so long at least: its run may still be admitted."""
_RUNS_AT_ONCE = 1_000
"""Runs removed in one transaction: about 20 ms of the write lock."""


def create_thread(cx: sqlite3.Connection, now: int, new: NewThread) -> ThreadRow:
    made = cx.execute(
        "INSERT INTO threads"
        " (thread_id, user_id, fence, metadata, created_at, updated_at, ttl_ms, temporary)"
        " VALUES (:thread, :user,"
        " COALESCE((SELECT fence FROM deleted_threads WHERE thread_id = :thread), 0),"
        " :metadata, :now, :now, :ttl, :temporary) ON CONFLICT (thread_id) DO NOTHING",
        {
            "thread": new.thread_id,
            "user": new.user_id,
            "metadata": dumps(new.metadata),
            "now": now,
            "ttl": new.ttl_ms,
            "temporary": int(new.temporary),
        },
    ).rowcount
    row = thread(cx, new.thread_id, new.user_id) if made or new.existing_ok else None
    if row is None:
        raise ThreadExists(new.thread_id)
    return row


def patch_thread(
    cx: sqlite3.Connection, now: int, thread_id: str, patch: ThreadPatch, user_id: str | None
) -> ThreadRow:
    row = thread(cx, thread_id, user_id)
    if row is None:
        raise ThreadNotFound(thread_id)
    cx.execute(
        "UPDATE threads SET metadata = :metadata, ttl_ms = CASE WHEN :sets_ttl THEN :ttl ELSE ttl_ms END,"
        " temporary = CASE WHEN :sets_ttl THEN 0 ELSE temporary END, updated_at = :now"
        " WHERE thread_id = :thread",
        {
            "metadata": dumps({**row.metadata, **patch.metadata}),
            "sets_ttl": int(patch.sets_ttl),
            "ttl": patch.ttl_ms,
            "now": now,
            "thread": thread_id,
        },
    )
    return patched if (patched := thread(cx, thread_id, user_id)) is not None else row


_ORDERS = {
    "thread_id": "t.thread_id",
    "status": STATUS,
    "created_at": "t.created_at",
    "updated_at": "t.updated_at",
    "state_updated_at": "COALESCE(t.state_updated_at, t.created_at)",
}
_DIRECTIONS = {"asc": "ASC", "desc": "DESC"}


def threads(cx: sqlite3.Connection, query: ThreadQuery, user_id: str | None) -> Page[ThreadRow]:
    """First the ids of the page, then the rows of these alone."""
    order, direction = _ORDERS[query.sort_by], _DIRECTIONS[query.sort_order]
    tables, where, args = _narrowed(query, user_id, status=query.sort_by == "status")
    page = cx.execute(
        f"SELECT t.thread_id FROM {tables} WHERE {where} ORDER BY {order} {direction},"
        f" t.thread_id {direction} LIMIT :limit OFFSET :offset",
        {**args, "limit": query.limit, "offset": query.offset},
    ).fetchall()
    rows = (
        row
        for (thread_id,) in page
        for row in cx.execute(
            f"SELECT {THREAD_COLUMNS} FROM threads t {WITH_LAST} WHERE t.thread_id = ?", (thread_id,)
        )
    )
    cutter = Cutter(query.max_bytes, THREAD_TEXTS)
    return cutter.page(_threads(cutter.rows(rows)))


def count_threads(cx: sqlite3.Connection, query: ThreadQuery, user_id: str | None) -> int:
    tables, where, args = _narrowed(query, user_id)
    return cx.execute(f"SELECT count(*) FROM {tables} WHERE {where}", args).fetchone()[0]


def _narrowed(
    query: ThreadQuery, user_id: str | None, *, status: bool = False
) -> tuple[str, str, JsonObject]:
    """The FROM clause, the condition, its parameters."""
    where, args = list[str](), dict[str, object]()
    if query.ids is not None:
        where.append("t.thread_id IN (SELECT value FROM json_each(:ids))")
        args["ids"] = dumps(query.ids)
    elif not query.temporary:
        where.append("t.temporary = 0")
    if user_id is not None:
        where.append("t.user_id = :user")
        args["user"] = user_id
    for name, part in (("metadata", query.metadata), ("values", query.values)):
        if part:
            where.append(containing(f't."{name}"', name, part, args))
    if query.status == "busy":  # begins at the runs in flight
        where.append(f"t.thread_id IN (SELECT thread_id FROM {IN_FLIGHT_RUNS} WHERE {IN_FLIGHT})")
    elif query.status is not None:
        status = True
        where.append(f"{STATUS} = :status")
        args["status"] = query.status
    tables = f"threads t {WITH_LAST}" if status else "threads t"
    return tables, " AND ".join(where) or "TRUE", args


def _threads(rows: Iterable[Columns]) -> list[ThreadRow]:
    """Unreadable rows are left out; for these `thread` raises."""
    return readable("thread", rows, thread_row)


_EXPIRED = (
    "SELECT t.thread_id, t.fence, t.temporary FROM threads t INDEXED BY threads_expiry"
    " WHERE t.ttl_ms IS NOT NULL AND t.updated_at + t.ttl_ms * 1000 <= :now"
    f" AND (t.temporary = 0 OR t.next_seq > 0 OR t.updated_at + {_UNUSED} * 1000 <= :now)"
    " AND NOT EXISTS (SELECT 1 FROM runs r INDEXED BY runs_history WHERE r.thread_id = t.thread_id"
    " AND (r.settled_at IS NULL OR r.settled_at + t.ttl_ms * 1000 > :now))"
    " ORDER BY t.updated_at + t.ttl_ms * 1000, t.thread_id LIMIT :limit"
)
"""Runs that outlive their thread's time to live are re-examined on every pass; the cost is bounded by the
number of running runs."""


def has_expired_threads(cx: sqlite3.Connection, now: int) -> bool:
    overdue = cx.execute(_EXPIRED, {"now": now, "limit": 1}).fetchone()
    forgotten = cx.execute("SELECT 1 FROM passing_fences WHERE forget_at <= ? LIMIT 1", (now,)).fetchone()
    return overdue is not None or forgotten is not None


def expire_threads(cx: sqlite3.Connection, now: int, limit: int) -> list[RemovedThread]:
    _forget_fences(cx, limit * 10, now)
    removed, room = list[RemovedThread](), _RUNS_AT_ONCE
    for thread_id, fence, temporary in cx.execute(_EXPIRED, {"now": now, "limit": limit}).fetchall():
        runs = _remove_runs(cx, thread_id, room)
        removed.append(RemovedThread(thread_id, tuple(runs)))
        room -= len(runs)
        if room <= 0:
            break
        _remove(cx, thread_id, fence, temporary, now)
    return removed


def _remove_runs(cx: sqlite3.Connection, thread_id: str, limit: int) -> list[str]:
    """Removes the oldest runs of an expired thread, with their audit."""
    oldest = cx.execute(
        "SELECT run_id FROM runs INDEXED BY runs_history WHERE thread_id = ?"
        " ORDER BY created_us, run_id DESC LIMIT ?",
        (thread_id, limit),
    ).fetchall()
    cx.executemany("DELETE FROM transitions WHERE run_id = ?", oldest)
    cx.executemany("DELETE FROM runs WHERE run_id = ?", oldest)
    return [run_id for (run_id,) in oldest]


def _remove(cx: sqlite3.Connection, thread_id: str, fence: int, temporary: int, now: int) -> None:
    leave(cx, now, thread_id, fence)
    cx.execute("DELETE FROM threads WHERE thread_id = ?", (thread_id,))
    cx.execute("DELETE FROM crons WHERE thread_id = ?", (thread_id,))
    cx.execute(
        "INSERT INTO deleted_threads (thread_id, fence) VALUES (?, ?)"
        " ON CONFLICT (thread_id) DO UPDATE SET fence = excluded.fence",
        (thread_id, fence),
    )
    if temporary:
        cx.execute(
            "INSERT INTO passing_fences (forget_at, thread_id, fence) VALUES (?, ?, ?)"
            " ON CONFLICT (forget_at, thread_id) DO UPDATE SET fence = excluded.fence",
            (now + _FENCE_KEPT, thread_id, fence),
        )


def _forget_fences(cx: sqlite3.Connection, limit: int, now: int) -> None:
    """Removes the fence, unless a thread of the same id was created and deleted since: that has left a newer
    one."""
    due = cx.execute(
        "SELECT forget_at, thread_id, fence FROM passing_fences WHERE forget_at <= ?"
        " ORDER BY forget_at, thread_id LIMIT ?",
        (now, limit),
    ).fetchall()
    cx.executemany(
        "DELETE FROM deleted_threads WHERE thread_id = ? AND fence = ?",
        [(thread_id, fence) for _, thread_id, fence in due],
    )
    cx.executemany(
        "DELETE FROM passing_fences WHERE forget_at = ? AND thread_id = ?",
        [(forget_at, thread_id) for forget_at, thread_id, _ in due],
    )


_TOUCH_THREAD = (
    "INSERT INTO threads"
    " (thread_id, user_id, assistant_id, fence, next_seq, created_at, updated_at, ttl_ms, temporary,"
    " metadata)"
    " VALUES (:thread, :user, :assistant,"
    " :step + COALESCE((SELECT fence FROM deleted_threads WHERE thread_id = :thread), 0), 1, :now, :now,"
    " :temporary_ms, :temporary_ms IS NOT NULL, COALESCE(:fresh, :stamp, '{}'))"
    " ON CONFLICT (thread_id) DO UPDATE SET"
    " user_id = COALESCE(threads.user_id, excluded.user_id),"
    " assistant_id = COALESCE(excluded.assistant_id, threads.assistant_id),"
    " fence = threads.fence + :step, next_seq = threads.next_seq + 1, updated_at = excluded.updated_at,"
    " metadata = CASE WHEN :stamp IS NULL THEN threads.metadata"
    " ELSE json_stamped(threads.metadata, :stamp) END"
    ' RETURNING fence, next_seq, temporary, CASE WHEN :read THEN "values" END'
)
"""Creates the thread's row or takes its next number, and a new fence where the run takes the thread."""


def touch(
    cx: sqlite3.Connection, request: AdmissionRequest, *, holds: bool, starts: bool, now: int
) -> tuple[int, int, bool, str | None]:
    """The run's fence (0 while it waits) and place in the queue, whether the thread is temporary, and its
    values as JSON if the run `starts`."""
    spec = request.spec
    fence, seq, temporary, values = cx.execute(
        _TOUCH_THREAD,
        {
            "thread": spec.thread_id,
            "user": spec.user_id,
            "assistant": spec.assistant_id,
            "step": int(holds),
            "now": now,
            "temporary_ms": spec.temporary_ms,
            "stamp": dumps_or_null(request.thread_metadata),
            "fresh": dumps_or_null(request.new_thread_metadata),
            "read": starts,
        },
    ).fetchone()
    return fence if holds else 0, seq, bool(temporary), values
