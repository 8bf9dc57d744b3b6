"""Which states a thread has had. See `stores.checkpoints`."""

from __future__ import annotations

import sqlite3

from stores.checkpoints import CheckpointRow
from stores.sql.codec import checkpoint_row
from stores.sql.readable import readable

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
    f" {_VALUES} IS NULLIF(t.\"values\", 'null')"
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
