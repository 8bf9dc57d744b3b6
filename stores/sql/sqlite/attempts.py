"""Further attempts of a run whose worker has died or drains: it keeps its thread, and gets another owner.

Between two attempts the run is open, holds its thread, and `stopped_at` is set.
"""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from stores.rows import Decision, Json, Orphan, Ownership
from stores.sql.codec import OPEN_STATUSES, loads
from stores.sql.sqlite.decisions import standing
from stores.sql.sqlite.guards import GUARD, guard, is_mine
from stores.sql.sqlite.orphans import PATIENCE, Orphaned, handed_over
from stores.states import OPEN, RunStatus

ADOPTED_AT_ONCE = 64
"""A sweep leaves further runs to the sweeps of other workers, and to its next one."""


def hand_over(cx: sqlite3.Connection, now: int, own: Ownership) -> Decision | None:
    """The task of the run has stopped undecided, and this worker does not continue it. It remains the owner
    until a sweep gives the run to another worker. Idempotent; writes nothing where the run was decided.
    Returns how the run stands; None = lost."""
    row = cx.execute(
        "UPDATE runs SET stopped_at = :now, updated_at = :now"
        f" WHERE {GUARD} AND holds_thread AND portable AND status IN {OPEN_STATUSES} AND stopped_at IS NULL"
        " RETURNING run_id",
        {**guard(own), "now": now},
    ).fetchone()
    if row is not None:
        cx.execute(_AUDIT, {"run": own.run_id, "now": now})
    decision = standing(cx, own.run_id)
    return decision if decision is not None and is_mine(cx, decision, own) else None


_AUDIT = (
    "INSERT INTO transitions"
    " (run_id, thread_id, at, what, from_status, to_status, holds_thread, epoch, fence)"
    " SELECT run_id, thread_id, :now, 'handed over', status, status, holds_thread, owner_epoch, fence"
    " FROM runs WHERE run_id = :run"
)


class Swept(NamedTuple):
    continued: list[Orphan]
    rest: list[Orphaned]
    """To be ended."""


def sweep(cx: sqlite3.Connection, orphaned: list[Orphaned], by: int | None, now: int) -> Swept:
    """Gives runs that may continue to `by`, where it is live and knows their assistants, at most
    ADOPTED_AT_ONCE; others wait for a worker that knows them. What `by` was given before and has not begun
    is returned again: the first answer may be lost."""
    given = [] if by is None else _given_before(cx, by)
    adopted, rest = list[Orphan](), list[Orphaned]()
    leaving = handed_over(cx)
    for run in [*orphaned, *leaving]:
        ref = readable_ref(run.rollback_ref) if run.may_continue else None
        if ref is not None and by is not None and len(adopted) < ADOPTED_AT_ONCE and _knows(cx, run, by):
            adopted.append(_adopt(cx, run, ref[0], by, now))
        elif run not in leaving and not waits(cx, run, now):
            rest.append(run)
    return Swept([*given, *adopted], rest)


def waits(cx: sqlite3.Connection, run: Orphaned, now: int) -> bool:
    """The run is left to a worker that can continue it: one is registered, or may be soon."""
    if not run.may_continue or readable_ref(run.rollback_ref) is None:
        return False
    row = cx.execute(
        "SELECT 1 FROM workers WHERE epoch = :owner AND fenced_at >= :now - :patience"
        " UNION ALL SELECT 1 FROM workers, json_each(assistants) WHERE state = 'live' AND value = :assistant"
        " LIMIT 1",
        {"owner": run.epoch, "now": now, "patience": PATIENCE, "assistant": run.assistant_id},
    ).fetchone()
    return row is not None


def _knows(cx: sqlite3.Connection, run: Orphaned, by: int) -> bool:
    row = cx.execute(
        "SELECT 1 FROM workers, json_each(assistants) WHERE epoch = ? AND state = 'live' AND value = ?",
        (by, run.assistant_id),
    ).fetchone()
    return row is not None


def _adopt(cx: sqlite3.Connection, run: Orphaned, ref: Json, by: int, now: int) -> Orphan:
    """A death of its worker takes one of the retries of the run. A run that was handed over keeps them. So
    does one that has not started: its next attempt has the same number."""
    (fence,) = cx.execute(
        "UPDATE threads SET fence = fence + 1, updated_at = :now WHERE thread_id = :thread RETURNING fence",
        {"thread": run.thread_id, "now": now},
    ).fetchone()
    cx.execute(
        "UPDATE runs SET owner_epoch = :by, fence = :fence, attempt = attempt + (status = 'running'),"
        " retries = retries - (stopped_at IS NULL AND status = 'running'), stopped_at = :now,"
        " updated_at = :now WHERE run_id = :run",
        {"by": by, "fence": fence, "now": now, "run": run.run_id},
    )
    own = Ownership(run.run_id, run.thread_id, by, fence)
    status = RunStatus.stored(run.status)
    attempt = run.attempt + (status is RunStatus.running)
    return Orphan(run.run_id, run.thread_id, status, run.epoch, own, ref, attempt=attempt)


def _given_before(cx: sqlite3.Connection, by: int) -> list[Orphan]:
    """Includes runs that were decided since: only their owner settles them."""
    rows = cx.execute(
        "SELECT run_id, thread_id, status, fence, rollback_ref, attempt"
        " FROM runs INDEXED BY runs_handed_over WHERE owner_epoch = :by AND holds_thread"
        " AND stopped_at IS NOT NULL AND COALESCE(rollback_state, '') NOT LIKE 'adopted %'"
        " AND EXISTS (SELECT 1 FROM workers WHERE epoch = :by AND state = 'live')",
        {"by": by},
    ).fetchall()
    given: list[Orphan] = []
    for run_id, thread_id, text, fence, ref, attempt in rows:
        own, status = Ownership(run_id, thread_id, by, fence), RunStatus.stored(text)
        read = readable_ref(ref)
        given.append(
            Orphan(
                run_id,
                thread_id,
                status,
                None,
                own,
                None if read is None else read[0],
                decided=status not in OPEN,
                attempt=attempt,
            )
        )
    return given


def readable_ref(ref: str | None) -> tuple[Json] | None:
    """None where it is damaged: one such row must not stop the recovery of all others."""
    try:
        return (loads(ref),)
    except ValueError:
        return None
