"""Which states a thread has had. See `stores.checkpoints`."""

from __future__ import annotations

import sqlite3

from stores.checkpoints import CheckpointRow
from stores.errors import StaleFence
from stores.rows import Ownership
from stores.sql.readable import readable
from stores.sql.sqlite.guards import GUARD, guard
from stores.sql.thread_codec import BASE_REMOVED, checkpoint_row

_KEPT = "{0}.checkpointed AND {0}.cancel_action IS NOT 'rollback'"
_VALUES = (
    'NULLIF(CASE WHEN r.settled_at IS NULL THEN t."values" WHEN r.checkpoint_values IS NULL THEN r.result'
    " ELSE r.checkpoint_values END, 'null')"
)
_PREVIOUS = (
    "(SELECT p.run_id FROM runs p INDEXED BY runs_checkpoints WHERE p.thread_id = r.thread_id"
    f" AND {_KEPT.format('p')} AND p.fence < r.fence ORDER BY p.fence DESC LIMIT 1)"
)
_SELECT = (
    "SELECT r.run_id, r.kind, r.assistant_id, r.status, r.paused, r.settled_at IS NOT NULL, r.interrupts,"
    f" r.metadata, r.kwargs, r.fence, {_VALUES}, {_PREVIOUS},"
    " COALESCE(r.settled_at, t.state_updated_at, r.updated_at),"
    f" {_VALUES} IS NULLIF(t.\"values\", 'null'), r.rollback_ref IS '{BASE_REMOVED}'"
)
_PAGE = (
    f"{_SELECT} FROM runs r INDEXED BY runs_checkpoints JOIN threads t ON t.thread_id = r.thread_id"
    f" WHERE r.thread_id = :thread AND {_KEPT.format('r')}"
    " AND (:before IS NULL OR r.fence < (SELECT b.fence FROM runs b"
    " WHERE b.run_id = :before AND b.thread_id = :thread)) ORDER BY r.fence DESC LIMIT :limit"
)
_ONE = (
    f"{_SELECT} FROM runs r JOIN threads t ON t.thread_id = r.thread_id"
    f" WHERE r.run_id = :run AND r.thread_id = :thread AND {_KEPT.format('r')}"
)


def checkpoints(
    cx: sqlite3.Connection, thread_id: str, *, run_id: str | None, before: str | None, limit: int
) -> list[CheckpointRow]:
    if run_id is not None:
        rows = cx.execute(_ONE, {"thread": thread_id, "run": run_id})
    else:
        rows = cx.execute(_PAGE, {"thread": thread_id, "before": before, "limit": limit})
    return readable("checkpoint", rows, checkpoint_row)


_OTHERS = (
    "UPDATE runs SET checkpointed = 0, checkpoint_values = NULL, rollback_ref = NULL"
    " WHERE thread_id = :thread AND checkpointed AND settled_at IS NOT NULL AND run_id IS NOT :newest"
)
_NEWEST = (
    "SELECT r.run_id FROM runs r INDEXED BY runs_checkpoints"
    f" WHERE r.thread_id = :thread AND {_KEPT.format('r')} ORDER BY r.fence DESC LIMIT 1"
)


def keep_latest(cx: sqlite3.Connection, now: int, own: Ownership) -> None:
    """Raises StaleFence. A settled run has nothing to restore: its `rollback_ref` is free for the mark."""
    del now
    holds = f"SELECT 1 FROM runs WHERE {GUARD} AND holds_thread AND status = 'running'"
    if cx.execute(holds, guard(own)).fetchone() is None:
        raise StaleFence(own.thread_id, own.fence)
    newest = cx.execute(_NEWEST, {"thread": own.thread_id}).fetchone()
    if newest is None:
        return
    cx.execute(_OTHERS, {"thread": own.thread_id, "newest": newest[0]})
    cx.execute(
        "UPDATE runs SET rollback_ref = ? WHERE run_id = ? AND settled_at IS NOT NULL",
        (BASE_REMOVED, newest[0]),
    )
