"""decide: fix a run's outcome, once, for ever. Only the store determines which decision came first."""

from __future__ import annotations

import sqlite3

from stores.rows import Decision
from stores.sql.codec import DECISION_COLUMNS, OPEN_STATUSES, decision_of, storable
from stores.states import TERMINAL, CancelAction, Cause, RunStatus


def decide(
    cx: sqlite3.Connection,
    now: int,
    run_id: str,
    status: RunStatus,
    *,
    action: CancelAction,
    cause: Cause,
    reason: str | None,
    actor: str | None,
    error: str | None,
    while_waiting: bool = False,
    home: int | None = None,
) -> Decision | None:
    """Decide a pending or running run; return the standing decision; None = unknown run. `while_waiting`:
    only where the run does not hold its thread yet; `home`: only where that epoch is its home, which
    has not handed it over. Its children in flight end with it.

    A run without an owner (waiting, or imported) settles at once. The slot of any other run is kept
    until its owner has seen the task stop. Decisions overtake queued writes: a caller that decides over a run
    that it admits waits for the answer of the admission first (or see `withdraw`).
    """
    if status not in TERMINAL:
        raise ValueError(f"{status} is no outcome")
    row = cx.execute(
        f"{_DECIDE} WHERE run_id = :run AND status IN {OPEN_STATUSES}"
        f" AND (NOT :while_waiting OR {_NOT_HOLDING}) AND (:home IS NULL OR home_epoch = :home)"
        f" RETURNING {DECISION_COLUMNS}",
        {
            **_terms(status, action=action, cause=cause, reason=reason, actor=actor, error=error, now=now),
            "run": run_id,
            "while_waiting": int(while_waiting),
            "home": home,
        },
    ).fetchone()
    if row is None:
        return standing(cx, run_id)
    decision = decision_of(row, won=True)
    return decision._replace(children=end_children(cx, run_id, status, now))


_NOT_HOLDING = "(status = 'pending' AND NOT holds_thread AND owner_epoch IS NULL)"

_DECIDE = (
    "UPDATE runs SET status = :status, cancel_action = :action, cancel_cause = :cause,"
    " cancel_reason = :reason, cancel_actor = :actor,"
    " cancel_requested_at = :now, error = COALESCE(:error, error), ended_at = :now, updated_at = :now,"
    " settled_at = CASE WHEN owner_epoch IS NULL THEN :now END"
)


def _terms(
    status: RunStatus,
    *,
    action: CancelAction,
    cause: Cause,
    reason: str | None,
    actor: str | None,
    error: str | None,
    now: int,
) -> dict[str, str | int | None]:
    """The parameters of _DECIDE."""
    return {
        "status": status.value,
        "action": action.value,
        "cause": cause.value,
        "reason": storable(reason),
        "actor": storable(actor),
        "error": storable(error),
        "now": now,
    }


_KIN = (
    "WITH RECURSIVE kin (run_id) AS ("
    " SELECT run_id FROM runs INDEXED BY runs_children"
    f" WHERE parent_run_id = :parent AND status IN {OPEN_STATUSES}"
    " UNION SELECT child.run_id FROM kin JOIN runs child INDEXED BY runs_children"
    f" ON child.parent_run_id = kin.run_id AND child.status IN {OPEN_STATUSES}) SELECT run_id FROM kin"
)
"""The runs in flight below a run, through runs in flight. UNION: each once, whatever the rows contain."""


def end_children(cx: sqlite3.Connection, run_id: str, status: RunStatus, now: int) -> tuple[Decision, ...]:
    """The run has ended with `status`: unless that is success, its children in flight are cancelled, in the
    transaction that ended it. Children of other workers are notified by a hint or cancelled at their tick."""
    if status is RunStatus.success:
        return ()
    kin = cx.execute(_KIN, {"parent": run_id}).fetchall()
    terms = _terms(
        RunStatus.interrupted,
        action=CancelAction.interrupt,
        cause=Cause.parent,
        reason=f"run {run_id} ended: {status}",
        actor=None,
        error=None,
        now=now,
    )
    deciding = f"{_DECIDE} WHERE run_id = :run RETURNING {DECISION_COLUMNS}"
    # Each is read before the next: a statement that is still open is compiled anew.
    rows = [cx.execute(deciding, {**terms, "run": child}).fetchone() for (child,) in kin]
    return tuple(decision_of(row, won=True) for row in rows)


def withdraw(cx: sqlite3.Connection, now: int, run_id: str, epoch: int) -> Decision | None:
    """Take back an admission whose caller disconnected: interrupted and settled, its thread is free.

    Only for a run of this epoch to which no task was ever attached. Queues behind the admission
    itself, so the row exists then if it ever will. A cancel that came first keeps its cause and
    is settled as well; a rollback has nothing to undo. None = unknown run.
    """
    row = cx.execute(
        f"UPDATE runs SET status = CASE WHEN status IN {OPEN_STATUSES} THEN 'interrupted' ELSE status END,"
        " cancel_action = COALESCE(cancel_action, 'interrupt'),"
        " cancel_cause = COALESCE(cancel_cause, 'disconnect'), cancel_requested_at ="
        " COALESCE(cancel_requested_at, :now),"
        " cancel_reason = COALESCE(cancel_reason, 'the caller of the admission was cancelled'),"
        " rollback_state = CASE WHEN cancel_action = 'rollback' AND started_at IS NOT NULL THEN 'done'"
        " ELSE rollback_state END,"
        " holds_thread = 0, settled_at = :now, ended_at = COALESCE(ended_at, :now), updated_at = :now"
        " WHERE run_id = :run AND COALESCE(owner_epoch, home_epoch) = :epoch AND settled_at IS NULL"
        f" RETURNING {DECISION_COLUMNS}",
        {"now": now, "run": run_id, "epoch": epoch},
    ).fetchone()
    if row is None:
        return standing(cx, run_id)
    decision = decision_of(row, won=True)
    return decision._replace(children=end_children(cx, run_id, decision.status, now))


def standing(cx: sqlite3.Connection, run_id: str) -> Decision | None:
    """How the run stands; a read."""
    row = cx.execute(f"SELECT {DECISION_COLUMNS} FROM runs WHERE run_id = ?", (run_id,)).fetchone()
    return None if row is None else decision_of(row, won=False)
