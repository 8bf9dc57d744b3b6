"""Reads for workers, operators and waiting requests. None of them takes a lock."""

from __future__ import annotations

import json
from typing import Any

from stores.rows import Overdue, RunRow, ThreadRow, Tick, Transition
from stores.sql.codec import drain_wish, thread_row
from stores.sql.postgres.calls import Call, Function, Query, Rows
from stores.sql.postgres.codec import RUN_COLUMNS, plain, run_of
from stores.sql.postgres.conditions import IN_FLIGHT, WAITING
from stores.sql.readable import readable
from stores.states import Cause, RunStatus

_ROW = Query(f"SELECT {RUN_COLUMNS} FROM rc.runs WHERE run_id = $1 AND ($2::text IS NULL OR user_id = $2)")
_HOLDER = Query(
    f"SELECT run_id FROM rc.runs WHERE thread_id = $1 AND {IN_FLIGHT}"
    " ORDER BY holds_thread DESC, not_before IS NOT NULL, seq LIMIT 1"
)
_LINE = Query(f"SELECT run_id FROM rc.runs WHERE thread_id = $1 AND {WAITING} ORDER BY seq")


def row(run_id: str, user_id: str | None) -> Call[RunRow | None]:
    return Call(_ROW, (run_id, user_id), lambda rows: run_of(rows[0]) if rows else None)


def holder(thread_id: str) -> Call[str | None]:
    """The run that holds the thread or, where none does, the oldest one in flight; a delayed one last."""
    return Call(_HOLDER, (thread_id,), lambda rows: rows[0][0] if rows else None)


def waiting_line(thread_id: str) -> Call[list[str]]:
    """Run ids in the order in which they will take the thread."""
    return Call(_LINE, (thread_id,), lambda rows: [row[0] for row in rows])


_TICK = Function("tick", ("bigint", "bigint"))
_FREE = ("waiting", "abandoned", "due")


def tick(epoch: int, now: int | None) -> Call[Tick]:
    """Few rows are due or overdue: usually the run's own worker has acted before. A batch, so that a tick
    stays short. Its order is total, so that every engine returns the same rows."""

    def answer(rows: Rows) -> Tick:
        (held,) = (row[1] for row in rows if row[0] == "held")
        wish = next((row for row in rows if row[0] == "drain"), None)
        return Tick(
            tuple(row[1] for row in rows if row[0] == "cancelled"),
            tuple(row[1] for row in rows if row[0] == "waiting"),
            tuple(dict.fromkeys(row[2] for row in rows if row[0] in _FREE and row[3])),
            tuple(Overdue(row[1], Cause(row[4])) for row in rows if row[0] == "overdue"),
            None if wish is None else drain_wish(wish[1], wish[2]),
            frozenset(json.loads(held)),
        )

    return Call(_TICK, (epoch, now), answer)


BUSY = f"EXISTS (SELECT FROM rc.runs WHERE thread_id = t.thread_id AND {IN_FLIGHT})"
WITH_LAST = (
    "LEFT JOIN LATERAL (SELECT status, paused, rollback_state, error FROM rc.runs l"
    " WHERE l.thread_id = t.thread_id AND l.kind = 'run'"
    " AND (l.cancel_action IS DISTINCT FROM 'rollback' OR l.rollback_state = 'failed')"
    " AND NOT (l.status = 'interrupted' AND l.started_at IS NULL)"
    " ORDER BY l.created_us DESC NULLS LAST, l.seq DESC LIMIT 1) last ON true"
)
"""To be joined to `threads t`, for STATUS: the run that determines the thread's status. Left out: what was
rolled back, and what never began."""
STATUS = (
    f"CASE WHEN {BUSY} THEN 'busy'"
    " WHEN last.status IN ('error', 'timeout') OR last.rollback_state = 'failed' THEN 'error'"
    " WHEN last.paused OR last.status = 'interrupted' THEN 'interrupted' ELSE 'idle' END"
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


def thread_of(columns: Any) -> ThreadRow:
    """Map a row selected with THREAD_COLUMNS."""
    return thread_row([plain(value) for value in columns])


def runs(
    *, thread_id: str | None, statuses: tuple[str, ...], limit: int, in_flight: bool
) -> Call[list[RunRow]]:
    """Newest first. Operations are left out: they are not runs that a client started."""
    where, args = ["kind = 'run'"], list[Any]()
    if thread_id is not None:
        args.append(thread_id)
        where.append(f"thread_id = ${len(args)}")
    if statuses:
        args.append(list(statuses))
        where.append(f"status = ANY (${len(args)}::text[])")
    if in_flight:
        where.append(IN_FLIGHT)
    args.append(limit)
    query = Query(
        f"SELECT {RUN_COLUMNS} FROM rc.runs WHERE {' AND '.join(where)}"
        f" ORDER BY created_us DESC NULLS LAST, run_id LIMIT ${len(args)}"
    )
    return Call(query, tuple(args), lambda rows: readable("run", rows, run_of))


_TRANSITIONS = Query(
    "SELECT id, run_id, thread_id, at, what, from_status, to_status, holds_thread, cause, actor, epoch,"
    " fence, detail FROM rc.transitions WHERE run_id = $1 ORDER BY id"
)


def transitions(run_id: str) -> Call[list[Transition]]:
    return Call(_TRANSITIONS, (run_id,), lambda rows: readable("transition", rows, _transition))


def _transition(row: Any) -> Transition:
    return Transition(
        id=row[0],
        run_id=row[1],
        thread_id=row[2],
        at=row[3],
        what=row[4],
        from_status=RunStatus.stored(row[5]) if row[5] else None,
        to_status=RunStatus.stored(row[6]),
        holds_thread=row[7],
        cause=Cause.stored(row[8]) if row[8] else None,
        actor=plain(row[9]),
        epoch=row[10],
        fence=row[11],
        detail=plain(row[12]),
    )
