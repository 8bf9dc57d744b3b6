"""Which states a thread has had. See `stores.checkpoints`."""

from __future__ import annotations

from stores.checkpoints import CheckpointRow
from stores.errors import StaleFence
from stores.rows import Ownership
from stores.sql.postgres.calls import Call, Function, Query, Rows
from stores.sql.postgres.codec import plain
from stores.sql.readable import readable
from stores.sql.thread_codec import BASE_REMOVED, checkpoint_row

_KEPT = "{0}.checkpointed AND {0}.cancel_action IS DISTINCT FROM 'rollback'"
_VALUES = (
    'NULLIF(CASE WHEN r.settled_at IS NULL THEN t."values" WHEN r.checkpoint_values IS NULL THEN r.result'
    " ELSE r.checkpoint_values END, 'null')"
)
_SELECT = (
    "SELECT r.run_id, r.kind, r.assistant_id, r.status, r.paused, r.settled_at IS NOT NULL, r.interrupts,"
    f" r.metadata, r.kwargs, r.fence, {_VALUES}, p.run_id,"
    " COALESCE(r.settled_at, t.state_updated_at, r.updated_at),"
    f" {_VALUES} IS NOT DISTINCT FROM NULLIF(t.\"values\", 'null'),"
    f" r.rollback_ref IS NOT DISTINCT FROM '{BASE_REMOVED}'"
    " FROM rc.runs r JOIN rc.threads t ON t.thread_id = r.thread_id"
    " LEFT JOIN LATERAL (SELECT p.run_id FROM rc.runs p WHERE p.thread_id = r.thread_id"
    f" AND {_KEPT.format('p')} AND p.fence < r.fence ORDER BY p.fence DESC LIMIT 1) p ON true"
)
_PAGE = Query(
    f"{_SELECT} WHERE r.thread_id = $1 AND {_KEPT.format('r')}"
    " AND ($2::text IS NULL"
    " OR r.fence < (SELECT b.fence FROM rc.runs b WHERE b.run_id = $2 AND b.thread_id = $1))"
    " ORDER BY r.fence DESC LIMIT $3"
)
_ONE = Query(f"{_SELECT} WHERE r.run_id = $2 AND r.thread_id = $1 AND {_KEPT.format('r')}")


def checkpoints(
    thread_id: str, *, run_id: str | None, before: str | None, limit: int
) -> Call[list[CheckpointRow]]:
    def answer(rows: Rows) -> list[CheckpointRow]:
        return readable("checkpoint", ([plain(value) for value in row] for row in rows), checkpoint_row)

    if run_id is not None:
        return Call(_ONE, (thread_id, run_id), answer)
    return Call(_PAGE, (thread_id, before, limit), answer)


_KEEP_LATEST = Function("keep_latest", ("text", "text", "bigint", "bigint", "text", "bigint"))


def keep_latest(now: int | None, own: Ownership) -> Call[None]:
    def answer(rows: Rows) -> None:
        if not rows[0][0]:
            raise StaleFence(own.thread_id, own.fence)

    return Call(_KEEP_LATEST, (own.run_id, own.thread_id, own.epoch, own.fence, BASE_REMOVED, now), answer)
