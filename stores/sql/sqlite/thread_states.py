"""State of threads outside of this store. See `stores.thread_states`."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from stores.errors import StaleFence
from stores.rows import Json, Ownership
from stores.sql.codec import dumps
from stores.sql.sqlite.guards import GUARD, guard
from stores.thread_states import RETRY_AFTER, RETRY_DOUBLINGS, RemovedState, noted_kind


def note(cx: sqlite3.Connection, thread_id: str, rollback_ref: Json) -> None:
    """Within `start`: a run of this thread may write to the storage that made `rollback_ref`."""
    if (kind := noted_kind(rollback_ref)) is not None:
        cx.execute(
            "INSERT INTO thread_states (thread_id, kind) VALUES (?, ?) ON CONFLICT DO NOTHING",
            (thread_id, kind),
        )


def note_states(cx: sqlite3.Connection, now: int, own: Ownership, kinds: Sequence[str]) -> None:  # noqa: ARG001 - every transaction gets a clock
    """Raises StaleFence."""
    if cx.execute(f"SELECT 1 FROM runs WHERE {GUARD} AND holds_thread", guard(own)).fetchone() is None:
        raise StaleFence(own.thread_id, own.fence)
    for kind in kinds:
        note(cx, own.thread_id, {"kind": kind})


def leave(cx: sqlite3.Connection, now: int, thread_id: str, fence: int) -> None:
    """Within the transaction that removes the thread, whose last fence is `fence`."""
    cx.execute(
        "UPDATE thread_states SET removed_fence = ?, due_at = ?, attempts = 0 WHERE thread_id = ?",
        (fence, now, thread_id),
    )


_CLAIM = (
    "UPDATE thread_states SET attempts = attempts + 1,"
    f" due_at = :now + ({RETRY_AFTER} << MIN(attempts, {RETRY_DOUBLINGS}))"
    " WHERE (thread_id, kind) IN (SELECT thread_id, kind FROM thread_states INDEXED BY thread_states_due"
    " WHERE removed_fence IS NOT NULL AND due_at <= :now AND kind IN (SELECT value FROM json_each(:kinds))"
    " ORDER BY due_at, thread_id, kind LIMIT :limit)"
    " RETURNING thread_id, kind, removed_fence, attempts"
)


def claim(cx: sqlite3.Connection, now: int, kinds: Sequence[str], limit: int) -> list[RemovedState]:
    claimed = cx.execute(_CLAIM, {"now": now, "kinds": dumps(list(kinds)), "limit": limit})
    return sorted(RemovedState(*row) for row in claimed.fetchall())


def forget(cx: sqlite3.Connection, now: int, states: Sequence[RemovedState]) -> None:  # noqa: ARG001 - every transaction gets a clock
    cx.executemany(
        "DELETE FROM thread_states WHERE thread_id = ? AND kind = ? AND removed_fence = ?",
        [(state.thread_id, state.kind, state.fence) for state in states],
    )


def removed(cx: sqlite3.Connection, thread_id: str, kind: str) -> RemovedState | None:
    row = cx.execute(
        "SELECT thread_id, kind, removed_fence, attempts FROM thread_states"
        " WHERE thread_id = ? AND kind = ? AND removed_fence IS NOT NULL",
        (thread_id, kind),
    ).fetchone()
    return None if row is None else RemovedState(*row)
