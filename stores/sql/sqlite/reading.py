"""Reads for workers, operators and waiting requests. None of them takes the write lock."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection

from stores.rows import HOMELESS_AT_ONCE, Overdue, ThreadRow, Tick
from stores.sql.codec import drain_wish
from stores.sql.conditions import IN_FLIGHT, QUEUED
from stores.sql.sqlite.codec import GONE, HOMELESS, IN_FLIGHT_RUNS, KNOWN
from stores.sql.thread_codec import thread_row
from stores.states import Cause


def tick(cx: sqlite3.Connection, epoch: int, now: int, executing: Collection[str]) -> Tick:
    cancelled = cx.execute(
        "SELECT run_id FROM runs WHERE owner_epoch = ? AND settled_at IS NULL AND cancel_action IS NOT NULL",
        (epoch,),
    )
    cancelled_ids = tuple(run_id for (run_id,) in cancelled)
    held, waiting = cx.execute(_OF_WORKER, {"epoch": epoch}).fetchone()
    mine = cx.execute(_MINE, {"epoch": epoch}).fetchall()
    abandoned = cx.execute(_ABANDONED, {"epoch": epoch}).fetchall()
    due = cx.execute(_DUE, {"epoch": epoch, "now": now}).fetchall()
    free_threads = tuple(dict.fromkeys(thread_id for (thread_id,) in mine + abandoned + due))
    overdue = cx.execute(_OVERDUE, {"now": now}).fetchall()
    wish = cx.execute(
        "SELECT drain_asked_at, drain_grace_ms FROM workers WHERE epoch = ? AND drain_asked_at IS NOT NULL",
        (epoch,),
    ).fetchone()
    return Tick(
        cancelled_ids,
        tuple(json.loads(waiting)),
        free_threads,
        tuple(Overdue(run_id, Cause(cause)) for run_id, cause in overdue),
        None if wish is None else drain_wish(*wish),
        frozenset(executing).difference(json.loads(held)),
    )


_WAITS_HERE = "home_epoch = :epoch AND status = 'pending' AND NOT holds_thread"
_OF_WORKER = (
    "SELECT (SELECT json_group_array(run_id) FROM runs INDEXED BY runs_owner"
    " WHERE owner_epoch = :epoch AND holds_thread),"
    f" (SELECT json_group_array(run_id) FROM runs INDEXED BY runs_home WHERE {_WAITS_HERE})"
)
"""The runs that hold a thread, and those that wait. In one row: ten thousand rows would be built one by one,
each with the GIL taken again."""

_NEXT = (
    f"NOT EXISTS (SELECT 1 FROM {IN_FLIGHT_RUNS} WHERE thread_id = w.thread_id"
    f" AND {IN_FLIGHT} AND (holds_thread OR (seq < w.seq AND {QUEUED})))"
)
"""The thread is free, and no run is queued before this one. A run behind the head cannot be claimed: a worker
would try in vain at every tick."""

_MINE = (
    "SELECT thread_id FROM"
    f" (SELECT DISTINCT thread_id FROM runs INDEXED BY runs_home WHERE {_WAITS_HERE}) mine"
    " WHERE CASE WHEN EXISTS (SELECT 1 FROM runs INDEXED BY runs_one_holder"
    " WHERE thread_id = mine.thread_id AND holds_thread) THEN 0"
    " ELSE EXISTS (SELECT 1 FROM runs w INDEXED BY runs_inflight WHERE thread_id = mine.thread_id"
    f" AND {IN_FLIGHT} AND {_WAITS_HERE} AND not_before IS NULL AND {_NEXT}) END"
)
"""Of the threads on which runs of this worker wait, nearly all are held: that takes two index entries. CASE
fixes the order."""

_HOMELESS = (
    "SELECT run_id, thread_id, seq FROM {table} WHERE {home} AND status = 'pending' AND NOT holds_thread"
    f" AND portable AND owner_epoch IS NULL AND not_before IS NULL AND {KNOWN}"
)
_ABANDONED = (
    f"WITH {GONE}, w AS ("
    + _HOMELESS.format(table="runs INDEXED BY runs_portable", home="home_epoch IS NULL")
    + " UNION ALL "
    + _HOMELESS.format(
        table="gone CROSS JOIN runs INDEXED BY runs_portable",
        home="home_epoch > after AND home_epoch < before",
    )
    + f") SELECT thread_id FROM w WHERE {_NEXT} LIMIT {HOMELESS_AT_ONCE}"
)
"""Begins at the homes that are dead: runs that wait at a live worker are not read. A batch: the runs that a
deployment leaves behind are claimed over several ticks, and none reads all of them."""

_DUE = (
    "SELECT thread_id FROM runs INDEXED BY runs_due WHERE status = 'pending' AND NOT holds_thread"
    " AND not_before IS NOT NULL AND not_before <= :now"
    f" AND (home_epoch = :epoch OR (portable AND owner_epoch IS NULL AND {HOMELESS} AND {KNOWN}))"
    " ORDER BY not_before, run_id LIMIT 100"
)
"""Usually empty: the home of a delayed run claims it in time. The order of a batch is total, so that every
engine returns the same rows."""

_OVERDUE = (
    "SELECT * FROM (SELECT run_id, 'timeout' FROM runs INDEXED BY runs_deadline"
    " WHERE status = 'running' AND deadline_at IS NOT NULL AND deadline_at <= :now"
    " ORDER BY deadline_at, run_id LIMIT 100) UNION ALL"
    " SELECT * FROM (SELECT run_id, 'queue_timeout' FROM runs INDEXED BY runs_queue_deadline"
    " WHERE status = 'pending' AND NOT holds_thread AND queue_deadline_at IS NOT NULL"
    " AND queue_deadline_at <= :now ORDER BY queue_deadline_at, run_id LIMIT 100)"
)
"""Usually empty: the worker that has the run ends it in time. A batch, so that a tick stays short."""


def last_run(thread: str) -> str:
    """The run or the update of state that determines the thread's status, as a subquery; `thread` is SQL.
    Left out: what was rolled back, and what never began."""
    return (
        f"(SELECT run_id FROM runs l WHERE l.thread_id = {thread}"
        " AND (l.kind = 'run' OR (l.checkpointed AND l.status = 'success'))"
        " AND (l.cancel_action IS NOT 'rollback' OR l.rollback_state = 'failed')"
        " AND NOT (l.status = 'interrupted' AND l.started_at IS NULL)"
        " ORDER BY l.created_us DESC, l.seq DESC LIMIT 1)"
    )


BUSY = f"EXISTS (SELECT 1 FROM {IN_FLIGHT_RUNS} WHERE thread_id = t.thread_id AND {IN_FLIGHT})"
WITH_LAST = f"LEFT JOIN runs last ON last.run_id = {last_run('t.thread_id')}"
"""To be joined to `threads t`, for STATUS."""
STATUS = (
    f"CASE WHEN {BUSY} THEN 'busy'"
    " WHEN last.status IN ('error', 'timeout') OR last.rollback_state = 'failed' THEN 'error'"
    " WHEN last.paused = 1 OR last.status = 'interrupted' OR t.interrupts <> '[]' THEN 'interrupted'"
    " ELSE 'idle' END"
)
THREAD_COLUMNS = (
    't.thread_id, t.user_id, t.assistant_id, t.fence, t.metadata, t."values", t.interrupts, t.created_at,'
    f" t.updated_at, COALESCE(t.state_updated_at, t.created_at), t.ttl_ms, t.temporary, {STATUS}, last.error"
)


_THREAD = (
    f"SELECT {THREAD_COLUMNS} FROM threads t {WITH_LAST}"
    " WHERE t.thread_id = :thread AND (:user IS NULL OR t.user_id = :user)"
)


def thread(cx: sqlite3.Connection, thread_id: str, user_id: str | None) -> ThreadRow | None:
    """One statement, so that status and values are of one snapshot."""
    columns = cx.execute(_THREAD, {"thread": thread_id, "user": user_id}).fetchone()
    return None if columns is None else thread_row(columns)
