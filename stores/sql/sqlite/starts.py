"""start: pending -> running, alone or in the transaction in which the run takes its thread."""

from __future__ import annotations

import sqlite3

from stores.rows import Json, Ownership, Started
from stores.sql.codec import dumps, loads, running
from stores.sql.sqlite.decisions import standing
from stores.sql.sqlite.guards import GUARD, guard, is_mine
from stores.sql.sqlite.thread_states import note
from stores.states import RunStatus


def start(cx: sqlite3.Connection, now: int, own: Ownership, rollback_ref: Json) -> Started | None:
    """pending -> running where the worker owns the run and its epoch is live. A further attempt of a run
    that has started before keeps what its first start has written.

    None = lost: another worker has the run, or the epoch is dead.
    """
    row = cx.execute(
        "UPDATE runs SET status = 'running', started_at = :now, rollback_ref = :ref, updated_at = :now,"
        " deadline_at = :now + timeout_ms * 1000, stopped_at = NULL"
        f" WHERE {GUARD} AND status = 'pending'"
        ' RETURNING home_epoch, (SELECT "values" FROM threads t WHERE t.thread_id = runs.thread_id)',
        {**guard(own), "now": now, "ref": dumps(rollback_ref)},
    ).fetchone()
    if row is None:
        cx.execute(_BEGIN_ATTEMPT, {**guard(own), "now": now})
        decision = standing(cx, own.run_id)
        if decision is None or not is_mine(cx, decision, own) or decision.status is RunStatus.pending:
            return None
        return Started(decision, _values(cx, own.thread_id) if decision.status is RunStatus.running else None)
    note(cx, own.thread_id, rollback_ref)
    home, values = row
    return Started(running(own, home), loads(values))


_BEGIN_ATTEMPT = (
    "UPDATE runs SET stopped_at = NULL, updated_at = :now"
    f" WHERE {GUARD} AND status = 'running' AND holds_thread AND stopped_at IS NOT NULL"
)


def _values(cx: sqlite3.Connection, thread_id: str) -> Json:
    (values,) = cx.execute('SELECT "values" FROM threads WHERE thread_id = ?', (thread_id,)).fetchone()
    return loads(values)
