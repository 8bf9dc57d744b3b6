"""What an owner writes: start, save, finish, settle. Each carries the guard, or writes nothing."""

from __future__ import annotations

import sqlite3

from stores.errors import StaleFence
from stores.rows import ANY_WORKER, Claimed, Decision, Finish, Json, NextStart, Outcome, Ownership
from stores.sql.codec import (
    DECISION_COLUMNS,
    OPEN_STATUSES,
    decision_of,
    dumps,
    dumps_or_null,
    loads,
    storable,
)
from stores.sql.columns import Column
from stores.sql.conditions import IN_FLIGHT, WAITING, WAITS
from stores.sql.sqlite.admission import take_thread
from stores.sql.sqlite.codec import HOMELESS, IN_FLIGHT_RUNS
from stores.sql.sqlite.decisions import end_children, standing
from stores.sql.sqlite.guards import GUARD, LIVE, guard, is_mine
from stores.sql.sqlite.starts import start
from stores.states import TERMINAL, CancelAction, RunStatus

__all__ = ["finish", "next_home", "refence", "restore", "save", "settle", "start"]

STOPPED = "status IN ('interrupted', 'timeout') AND cancel_action IS 'interrupt'"
"""It was cancelled without rollback: it may save once more while it holds its thread. False, not NULL, for a
run that `set_status` decided: such a run has no action."""


def save(cx: sqlite3.Connection, now: int, own: Ownership, values: Json, *, last: bool = False) -> None:
    """Write the thread's values as the running holder; the first save of a run keeps the old ones. `last`:
    also where the run was cancelled and still holds its thread, once, which the audit shows.

    Raises StaleFence where the guard does not hold.
    """
    row = cx.execute(
        f"SELECT rollback_ref, status FROM runs WHERE {GUARD} AND holds_thread"
        f" AND (status = 'running' OR (:last AND {STOPPED}))",
        {**guard(own), "last": last},
    ).fetchone()
    if row is None or (row[1] != RunStatus.running and _saved_last(cx, own, values)):
        raise StaleFence(own.thread_id, own.fence)
    if row[1] != RunStatus.running:
        cx.execute(_AUDIT_LAST_SAVE, {"run": own.run_id, "now": now})
    ref: dict[str, Json] = loads(row[0]) or {}
    if "values" not in ref:
        old, interrupts = cx.execute(
            'SELECT "values", interrupts FROM threads WHERE thread_id = ?', (own.thread_id,)
        ).fetchone()
        ref.update(values=loads(old), interrupts=loads(interrupts))
        cx.execute(
            "UPDATE runs SET rollback_ref = ?, checkpointed = 1 WHERE run_id = ?", (dumps(ref), own.run_id)
        )
    _write_values(cx, own.thread_id, dumps_or_null(values), None, now)


_AUDIT_LAST_SAVE = (
    "INSERT INTO transitions"
    " (run_id, thread_id, at, what, from_status, to_status, holds_thread, cause, actor, epoch, fence)"
    " SELECT run_id, thread_id, :now, 'saved', status, status, holds_thread, cancel_cause, cancel_actor,"
    " owner_epoch, fence FROM runs WHERE run_id = :run"
    " AND NOT EXISTS (SELECT 1 FROM transitions WHERE run_id = :run AND what = 'saved')"
)


def _saved_last(cx: sqlite3.Connection, own: Ownership, values: Json) -> bool:
    """The run has made its last save, with other values: equal ones are the same save, whose first answer may
    be lost."""
    row = cx.execute(
        'SELECT 1 FROM threads WHERE thread_id = :thread AND "values" IS NOT :values AND EXISTS'
        " (SELECT 1 FROM transitions WHERE run_id = :run AND what = 'saved')",
        {"thread": own.thread_id, "run": own.run_id, "values": dumps_or_null(values)},
    ).fetchone()
    return row is not None


def restore(cx: sqlite3.Connection, now: int, own: Ownership) -> Json:
    """Undo what the run saved; return the thread's values. Idempotent, also where it saved nothing.

    Raises StaleFence where the run does not hold the thread with this fence.
    """
    row = cx.execute(
        f'SELECT rollback_ref, (SELECT "values" FROM threads t WHERE t.thread_id = runs.thread_id) FROM runs'
        f" WHERE {GUARD} AND holds_thread",
        guard(own),
    ).fetchone()
    if row is None:
        raise StaleFence(own.thread_id, own.fence)
    ref: dict[str, Json] = loads(row[0]) or {}
    if "values" not in ref:
        return loads(row[1])
    values, interrupts = dumps_or_null(ref["values"]), dumps_or_null(ref.get("interrupts"))
    _write_values(cx, own.thread_id, values, interrupts, now)
    return ref["values"]


def finish(
    cx: sqlite3.Connection,
    now: int,
    own: Ownership,
    outcome: Outcome,
    *,
    hold: bool = False,
    following: NextStart | None = None,
) -> Finish:
    """Decide, unless that was done, and settle, in one statement. `hold` only decides: the task that
    reports its own end has not stopped yet, so the thread stays held until `settle`.

    A rollback that was decided first keeps the thread held (`undo`) until `settle`: the state must
    be back before the next run may read it. `following`: see `OwnershipStore.finish`.
    """
    finish = _finish(cx, now, own, outcome, hold=hold)
    decision = finish.decision
    if following is None or decision is None or not decision.settled or finish.lost:
        return finish
    return _claim_next(cx, now, own, finish, following)


def _claim_next(
    cx: sqlite3.Connection, now: int, own: Ownership, finish: Finish, following: NextStart
) -> Finish:
    row = cx.execute(_HOLDS, {"run": following.run_id, "epoch": own.epoch}).fetchone()
    if row is not None:  # it took the thread in an earlier attempt, whose answer was lost
        claimed = Claimed(following.run_id, row[0])
    elif finish.next_home == own.epoch and _is_next(cx, now, own.thread_id, following.run_id):
        claimed = take_thread(cx, now, own.thread_id, following.run_id, own.epoch)
    else:
        return finish
    its = Ownership(claimed.run_id, own.thread_id, own.epoch, claimed.fence)
    claimed = claimed._replace(started=start(cx, now, its, following.rollback_ref))
    return finish._replace(next_home=None, claimed=claimed)


def _is_next(cx: sqlite3.Connection, now: int, thread_id: str, run_id: str) -> bool:
    """Whether the thread is free, the run is the head of its queue, and no delayed run is due."""
    head, blocked = cx.execute(_HEAD, {"thread": thread_id, "now": now}).fetchone()
    return head == run_id and not blocked


_OF_THREAD = f"FROM {IN_FLIGHT_RUNS} WHERE thread_id = :thread"
_HEAD = (
    f"SELECT (SELECT run_id {_OF_THREAD} AND {WAITING} ORDER BY seq LIMIT 1),"
    f" EXISTS (SELECT 1 {_OF_THREAD} AND {IN_FLIGHT} AND (NOT ({WAITS}) OR not_before <= :now))"
)
_HOLDS = "SELECT fence FROM runs WHERE run_id = :run AND owner_epoch = :epoch AND holds_thread"


def _finish(cx: sqlite3.Connection, now: int, own: Ownership, outcome: Outcome, *, hold: bool) -> Finish:
    if outcome.status not in TERMINAL:
        raise ValueError(f"{outcome.status} is no outcome")
    written = _written(outcome)
    given = {**guard(own), **written, "now": now, "leaves": int(_leaves(own, outcome)), "hold": int(hold)}
    row = cx.execute(_FINISH, given).fetchone()
    if row is None:
        return _why_not(cx, own)
    decision = decision_of(row, won=row[2] == outcome.status and row[7] is None)
    if decision.status is not RunStatus.success:
        decision = decision._replace(children=end_children(cx, own.run_id, decision.status, now))
    home, interrupted = _after(cx, own.thread_id)
    values, interrupts = written["values"], written["interrupts"]
    if decision.won and decision.status is RunStatus.success and own.fence:  # 0: beside the slot
        if values is not None:  # a success replaces the interrupts too
            _write_values(cx, own.thread_id, values, interrupts, now)
        elif interrupts is not None or (interrupted and _answers(cx, own.run_id)):
            cx.execute(
                "UPDATE threads SET interrupts = ?, updated_at = ? WHERE thread_id = ?",
                (interrupts, now, own.thread_id),
            )
    elif _keeps(own, decision, outcome, hold=hold):
        _write_values(cx, own.thread_id, values, None, now)
        _correct_webhook(cx, decision, values)
    elif _left(own, decision, outcome, hold=hold):
        _write_values(cx, own.thread_id, values, dumps_or_null(outcome.interrupts), now)
        _correct_webhook(cx, decision, values)
    return Finish(decision.status, next_home=home, decision=decision)


def _answers(cx: sqlite3.Connection, run_id: str) -> bool:
    """A run answers the interrupts of its thread. An operation does if it has left a state."""
    row = cx.execute("SELECT kind = 'run' OR checkpointed FROM runs WHERE run_id = ?", (run_id,)).fetchone()
    return bool(row[0])


def _written(outcome: Outcome) -> dict[str, Column]:
    """The outcome as columns, by their names. Raises ValueError, TypeError for what JSON cannot hold."""
    values = dumps_or_null(outcome.values)
    return {
        "values": values,
        "delivered_at": outcome.delivered_at,
        "stopped_at": outcome.stopped_at,
        "log_end": outcome.log_end,
        "paused": int(outcome.paused),
        "interrupts": dumps_or_null(outcome.interrupts if outcome.status is RunStatus.success else None),
        "result": values if outcome.result is outcome.values else dumps_or_null(outcome.result),
        "error": storable(outcome.error),
        "status": outcome.status.value,
    }


def _leaves(own: Ownership, outcome: Outcome) -> bool:
    """The outcome is a new state of the thread, unless a decision was made over the run."""
    new = outcome.values is not None or outcome.paused or outcome.interrupts is not None
    return outcome.status is RunStatus.success and new and own.fence > 0


def _keeps(own: Ownership, decision: Decision, outcome: Outcome, *, hold: bool) -> bool:
    """The run was cancelled and returned all the same: what it has returned is its last save."""
    returned = outcome.status is RunStatus.success and outcome.values is not None and own.fence > 0
    stopped = decision.status in (RunStatus.interrupted, RunStatus.timeout)
    return returned and stopped and decision.action is CancelAction.interrupt and not hold


def _left(own: Ownership, decision: Decision, outcome: Outcome, *, hold: bool) -> bool:
    """The run has not succeeded, and its assistant keeps the state of the thread, which the outcome has."""
    has_state = outcome.status is not RunStatus.success and outcome.values is not None and own.fence > 0
    return has_state and decision.action is not CancelAction.rollback and not hold


HELD = "COALESCE((SELECT t.\"values\" FROM threads t WHERE t.thread_id = runs.thread_id), 'null')"
"""The values of the run's thread, as the state that the run has left."""
_LEAVES = f":leaves AND (status IN {OPEN_STATUSES} OR (:values IS NOT NULL AND NOT :hold AND {STOPPED}))"
_FINISH = (
    "UPDATE runs SET holds_thread = holds_thread AND :hold, settled_at = CASE WHEN NOT :hold THEN :now END,"
    " ended_at = COALESCE(ended_at, :now), updated_at = :now,"
    " cancel_delivered_at = COALESCE(:delivered_at, cancel_delivered_at),"
    " stopped_at = COALESCE(:stopped_at, stopped_at), log_end = COALESCE(:log_end, log_end),"
    f" checkpointed = checkpointed OR ({_LEAVES}),"
    f" checkpoint_values = CASE WHEN {_LEAVES} AND :values IS NOT NULL THEN"
    f" CASE WHEN status NOT IN {OPEN_STATUSES} OR :result IS NOT :values THEN :values END"
    f" WHEN checkpointed OR ({_LEAVES}) THEN {HELD} END,"
    f" paused = CASE WHEN status IN {OPEN_STATUSES} THEN :paused ELSE paused END,"
    f" interrupts = CASE WHEN status IN {OPEN_STATUSES} THEN :interrupts ELSE interrupts END,"
    f" result = CASE WHEN status IN {OPEN_STATUSES} THEN :result ELSE result END,"
    f" error = CASE WHEN status IN {OPEN_STATUSES} THEN :error ELSE error END,"
    f" status = CASE WHEN status IN {OPEN_STATUSES} THEN :status ELSE status END"
    f" WHERE {GUARD} AND (status IN {OPEN_STATUSES} OR cancel_action IS NOT 'rollback'"
    f" OR started_at IS NULL OR NOT holds_thread) RETURNING {DECISION_COLUMNS}"
)
"""A rollback waits for `settle` only where the run may have changed the thread."""


def settle(
    cx: sqlite3.Connection, now: int, own: Ownership, outcome: Outcome, rollback_state: str | None
) -> Finish:
    """Free the thread of a run that was decided. `outcome.values`: what `restore` returned; its
    status is ignored."""
    row = cx.execute(
        "UPDATE runs SET holds_thread = 0, settled_at = :now, updated_at = :now,"
        " stopped_at = COALESCE(:stopped_at, stopped_at), log_end = COALESCE(:log_end, log_end),"
        " cancel_delivered_at = COALESCE(:delivered_at, cancel_delivered_at),"
        " rollback_state = COALESCE(:rollback_state, rollback_state), error = COALESCE(:error, error)"
        f" WHERE {GUARD} AND status NOT IN {OPEN_STATUSES} RETURNING {DECISION_COLUMNS}",
        {
            **guard(own),
            "now": now,
            "stopped_at": outcome.stopped_at,
            "log_end": outcome.log_end,
            "delivered_at": outcome.delivered_at,
            "rollback_state": rollback_state,
            "error": storable(outcome.error),
        },
    ).fetchone()
    if row is None:
        return _why_not(cx, own)
    if outcome.values is not None:
        cx.execute(
            'UPDATE threads SET "values" = ?, state_updated_at = ?, updated_at = ? WHERE thread_id = ?',
            (dumps(outcome.values), now, now, own.thread_id),
        )
    decision = decision_of(row, won=False)
    return Finish(decision.status, next_home=next_home(cx, own.thread_id), decision=decision)


def refence(cx: sqlite3.Connection, now: int, own: Ownership) -> Ownership | None:
    """Take a newer fence on a thread that the run still holds: writes with the old one are refused
    from here on. Called again with the old fence, it returns the newer one. None = lost."""
    row = cx.execute(
        "UPDATE runs SET fence = fence + 1, updated_at = :now"
        f" WHERE {GUARD} AND holds_thread RETURNING fence",
        {**guard(own), "now": now},
    ).fetchone()
    if row is not None:
        cx.execute(
            "UPDATE threads SET fence = ?, updated_at = ? WHERE thread_id = ?", (row[0], now, own.thread_id)
        )
    else:
        row = cx.execute(
            "SELECT fence FROM runs WHERE run_id = :run AND owner_epoch = :epoch"
            f" AND fence > :fence AND :fence > 0 AND holds_thread AND {LIVE}",
            guard(own),
        ).fetchone()
    return None if row is None else own._replace(fence=row[0])


def next_home(cx: sqlite3.Connection, thread_id: str) -> int | None:
    """The home epoch of the head of the queue, or ANY_WORKER. See `Finish`."""
    return _after(cx, thread_id)[0]


def _why_not(cx: sqlite3.Connection, own: Ownership) -> Finish:
    decision = standing(cx, own.run_id)
    if decision is None or not is_mine(cx, decision, own):
        return Finish(decision.status if decision else None, lost=True, decision=decision)
    if decision.settled:  # repeated after an unknown outcome
        return Finish(decision.status, next_home=next_home(cx, own.thread_id), decision=decision)
    return Finish(decision.status, undo=decision.action is CancelAction.rollback, decision=decision)


def _after(cx: sqlite3.Connection, thread_id: str) -> tuple[int | None, bool]:
    """`next_home`, and whether the thread has interrupts; in one statement."""
    home, interrupted = cx.execute(
        f"SELECT (SELECT CASE WHEN portable AND {HOMELESS} THEN {ANY_WORKER} ELSE home_epoch END"
        f" FROM {IN_FLIGHT_RUNS} WHERE thread_id = :thread AND {WAITING} ORDER BY seq LIMIT 1), EXISTS"
        " (SELECT 1 FROM threads WHERE thread_id = :thread AND interrupts IS NOT NULL)",
        {"thread": thread_id},
    ).fetchone()
    return home, bool(interrupted)


def _write_values(
    cx: sqlite3.Connection, thread_id: str, values: str | None, interrupts: str | None, now: int
) -> None:
    cx.execute(
        'UPDATE threads SET "values" = ?, interrupts = ?, state_updated_at = ?, updated_at = ?'
        " WHERE thread_id = ?",
        (values, interrupts, now, now, thread_id),
    )


def _correct_webhook(cx: sqlite3.Connection, decision: Decision, values: str | None) -> None:
    """Of a run that has settled without success: its webhook became due with the values from before."""
    if decision.status is not RunStatus.success:
        cx.execute(
            "UPDATE webhooks SET \"values\" = ? WHERE run_id = ? AND state = 'due'",
            (values, decision.run_id),
        )
