"""Reads for workers, operators and waiting requests. None of them takes a lock."""

from __future__ import annotations

import json
from collections.abc import Collection

from stores.rows import Overdue, ThreadRow, Tick
from stores.sql.codec import drain_wish
from stores.sql.columns import Columns
from stores.sql.conditions import IN_FLIGHT
from stores.sql.postgres.calls import Call, Function, Query, Rows
from stores.sql.postgres.codec import plain
from stores.sql.thread_codec import thread_row
from stores.states import Cause

_TICK = Function("worker_tick", ("bigint", "text[]", "bigint"))


def tick(epoch: int, now: int | None, executing: Collection[str]) -> Call[Tick]:
    """Few rows are due or overdue: usually the run's own worker has acted before. A batch, so that a tick
    stays short. Its order is total, so that every engine returns the same rows."""

    def answer(rows: Rows) -> Tick:
        (waiting,) = (row[1] for row in rows if row[0] == "waiting")
        wish = next((row for row in rows if row[0] == "drain"), None)
        return Tick(
            tuple(row[1] for row in rows if row[0] == "cancelled"),
            tuple(json.loads(waiting)),
            tuple(dict.fromkeys(row[2] for row in rows if row[0] == "free")),
            tuple(Overdue(row[1], Cause(row[3])) for row in rows if row[0] == "overdue"),
            None if wish is None else drain_wish(wish[1], wish[2]),
            frozenset(row[1] for row in rows if row[0] == "not held"),
        )

    return Call(_TICK, (epoch, list(executing), now), answer)


BUSY = f"EXISTS (SELECT FROM rc.runs WHERE thread_id = t.thread_id AND {IN_FLIGHT})"
WITH_LAST = (
    "LEFT JOIN LATERAL (SELECT status, paused, rollback_state, error FROM rc.runs l"
    " WHERE l.thread_id = t.thread_id"
    " AND (l.kind = 'run' OR (l.checkpointed AND l.status = 'success'))"
    " AND (l.cancel_action IS DISTINCT FROM 'rollback' OR l.rollback_state = 'failed')"
    " AND NOT (l.status = 'interrupted' AND l.started_at IS NULL)"
    " ORDER BY l.created_us DESC NULLS LAST, l.seq DESC LIMIT 1) last ON true"
)
"""To be joined to `threads t`, for STATUS: the run or the update of state that determines the thread's
status. Left out: what was rolled back, and what never began."""
STATUS = (
    f"CASE WHEN {BUSY} THEN 'busy'"
    " WHEN last.status IN ('error', 'timeout') OR last.rollback_state = 'failed' THEN 'error'"
    " WHEN last.paused OR last.status = 'interrupted' OR t.interrupts <> '[]' THEN 'interrupted'"
    " ELSE 'idle' END"
)
THREAD_COLUMNS = (
    't.thread_id, t.user_id, t.assistant_id, t.fence, t.metadata, t."values", t.interrupts, t.created_at,'
    f" t.updated_at, COALESCE(t.state_updated_at, t.created_at), t.ttl_ms, t.temporary, {STATUS}, last.error"
)
_THREAD = Query(
    f"SELECT {THREAD_COLUMNS} FROM rc.threads t {WITH_LAST}"
    " WHERE t.thread_id = $1 AND ($2::text IS NULL OR t.user_id = $2)"
)


def thread(thread_id: str, user_id: str | None) -> Call[ThreadRow | None]:
    """One statement, so that status and values are of one snapshot."""
    return Call(_THREAD, (thread_id, user_id), lambda rows: thread_of(rows[0]) if rows else None)


def thread_of(columns: Columns) -> ThreadRow:
    """Map a row selected with THREAD_COLUMNS."""
    return thread_row([plain(value) for value in columns])
