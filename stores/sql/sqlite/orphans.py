"""The runs in flight without a live worker. Only these are read, not all that are in flight."""

from __future__ import annotations

import json
import sqlite3

from stores.sql.codec import OPEN_STATUSES
from stores.sql.columns import Column
from stores.sql.sqlite.codec import ALIVE, GONE, HOMELESS

PATIENCE = 600_000_000
"""us. A portable run without a home, whose time has come, waits so long for a worker that knows its assistant
(a deployment may be down in between); then it is ended, because its thread waits with it."""

_COLUMNS = (
    "run_id, thread_id, status, COALESCE(owner_epoch, home_epoch), cancel_action, started_at, rollback_ref,"
    " COALESCE(rollback_state, ''), holds_thread"
)
_UNOWNED = (
    "owner_epoch IS NULL"
    " AND (status = 'running' OR status = 'pending' AND home_epoch IS NULL AND NOT portable)"
)
_PORTABLE = "status = 'pending' AND NOT holds_thread AND portable"
_OF_EPOCHS = (
    "SELECT run_id FROM gone CROSS JOIN runs INDEXED BY runs_owner"
    " WHERE owner_epoch > after AND owner_epoch < before AND holds_thread"
    " UNION ALL SELECT run_id FROM gone CROSS JOIN runs INDEXED BY runs_beside"
    " WHERE owner_epoch > after AND owner_epoch < before AND NOT holds_thread AND owner_epoch IS NOT NULL"
    f" AND settled_at IS NULL AND status IN {OPEN_STATUSES}"
    " UNION ALL SELECT run_id FROM gone CROSS JOIN runs INDEXED BY runs_home"
    " WHERE home_epoch > after AND home_epoch < before AND status = 'pending' AND NOT holds_thread"
    " AND owner_epoch IS NULL AND NOT portable"
    " UNION ALL SELECT run_id FROM gone CROSS JOIN runs INDEXED BY runs_unowned"
    f" WHERE {_UNOWNED} AND home_epoch > after AND home_epoch < before"
)
_UNCLAIMED = (
    f"SELECT run_id FROM runs INDEXED BY runs_unowned WHERE {_UNOWNED} AND home_epoch IS NULL"
    " UNION ALL SELECT run_id FROM json_each(:unknown) CROSS JOIN runs INDEXED BY runs_of_assistant"
    f" WHERE COALESCE(assistant_id, '') = value AND {_PORTABLE} AND owner_epoch IS NULL AND {HOMELESS}"
    f" AND MAX(updated_at, COALESCE(not_before, 0)) < :now - {PATIENCE}"
)
_FOUND = (
    f" SELECT {_COLUMNS} FROM orphans CROSS JOIN runs USING (run_id)"
    " WHERE :before IS NULL OR created_us < :before"
    " ORDER BY parent_run_id IS NOT NULL, created_us, run_id"
)
_ALL = f"WITH {GONE}, orphans AS ({_OF_EPOCHS} UNION ALL {_UNCLAIMED}){_FOUND}"
_ONE = (
    f"WITH gone (after, before) AS (SELECT :only - 1, :only + 1 WHERE :only NOT IN {ALIVE}),"
    f" orphans AS ({_OF_EPOCHS}){_FOUND}"
)


def orphaned(
    cx: sqlite3.Connection, now: int, *, before: int | None, only: int | None
) -> list[tuple[Column, ...]]:
    """Rows of _COLUMNS; `only`: those of one epoch. Parents first: they cancel their children."""
    if only is not None:
        return cx.execute(_ONE, {"before": before, "only": only}).fetchall()
    unknown = json.dumps(_unknown_assistants(cx))
    return cx.execute(_ALL, {"before": before, "now": now, "unknown": unknown}).fetchall()


def _unknown_assistants(cx: sqlite3.Connection) -> list[str]:
    """Assistants of waiting portable runs that no live worker knows; "" = none. From one to the next by
    index, however many runs wait."""
    unknown, named = list[str](), _next_assistant(cx, None)
    while named is not None:
        known = cx.execute(
            "SELECT 1 FROM workers, json_each(assistants) WHERE state <> 'dead' AND value = ? LIMIT 1",
            (named,),
        )
        if known.fetchone() is None:
            unknown.append(named)
        named = _next_assistant(cx, named)
    return unknown


_FIRST = (
    f"SELECT COALESCE(assistant_id, '') FROM runs INDEXED BY runs_of_assistant WHERE {_PORTABLE}"
    " ORDER BY COALESCE(assistant_id, '') LIMIT 1"
)
_NEXT = _FIRST.replace(" ORDER BY", " AND COALESCE(assistant_id, '') > ? ORDER BY")


def _next_assistant(cx: sqlite3.Connection, after: str | None) -> str | None:
    row = (cx.execute(_FIRST) if after is None else cx.execute(_NEXT, (after,))).fetchone()
    return None if row is None else row[0]
