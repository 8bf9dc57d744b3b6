"""What an owner writes: start, save, finish, settle. Each carries the guard, or writes nothing."""

from __future__ import annotations

import sqlite3
from typing import Any

from stores.errors import StaleFence
from stores.rows import ANY_WORKER, Decision, Finish, Json, Outcome, Ownership, Started
from stores.sql.codec import (
    DECISION_COLUMNS,
    OPEN_STATUSES,
    decision_of,
    dumps,
    dumps_or_null,
    loads,
    storable,
)
from stores.sql.sqlite.admission import is_dead
from stores.sql.sqlite.codec import HOMELESS, IN_FLIGHT_RUNS, WAITING
from stores.sql.sqlite.decisions import end_children, standing
from stores.states import TERMINAL, CancelAction, RunStatus

LIVE = "EXISTS (SELECT 1 FROM workers WHERE epoch = runs.owner_epoch AND state <> 'dead')"
"""A worker is fenced by the declaration of its death: the sweep that ends its runs comes a moment later."""
_GUARD = f"run_id = :run AND owner_epoch = :epoch AND fence = :fence AND settled_at IS NULL AND {LIVE}"
"""settled_at IS NULL: the run holds its thread, or lives beside the slot (see `insert`). Its
parameters are those of `_guard`."""


def start(cx: sqlite3.Connection, now: int, own: Ownership, rollback_ref: Json) -> Started | None:
    """pending -> running where the worker owns the run and its epoch is live.

    None = lost: another worker has the run, or the epoch is dead.
    """
    row = cx.execute(
        "UPDATE runs SET status = 'running', started_at = :now, rollback_ref = :ref, updated_at = :now,"
        " deadline_at = :now + timeout_ms * 1000"
        f" WHERE {_GUARD} AND status = 'pending'"
        ' RETURNING home_epoch, (SELECT "values" FROM threads t WHERE t.thread_id = runs.thread_id)',
        {**_guard(own), "now": now, "ref": dumps(rollback_ref)},
    ).fetchone()
    if row is None:
        decision = standing(cx, own.run_id)
        if decision is None or not _mine(cx, decision, own) or decision.status is RunStatus.pending:
            return None
        return Started(decision, _values(cx, own.thread_id) if decision.status is RunStatus.running else None)
    home, values = row
    decision = Decision(own.run_id, own.thread_id, RunStatus.running, True, False, own.epoch, home, own.fence)
    return Started(decision, loads(values))


STOPPED = "status IN ('interrupted', 'timeout') AND cancel_action IS 'interrupt'"
"""It was cancelled without rollback: it may save once more while it holds its thread. False, not NULL, for a
run that `set_status` decided: such a run has no action."""


def save(cx: sqlite3.Connection, now: int, own: Ownership, values: Json, *, last: bool = False) -> None:
    """Write the thread's values as the running holder; the first save of a run keeps the old ones. `last`:
    also where the run was cancelled and still holds its thread, once, which the audit shows.

    Raises StaleFence where the guard does not hold.
    """
    row = cx.execute(
        f"SELECT rollback_ref, status FROM runs WHERE {_GUARD} AND holds_thread"
        f" AND (status = 'running' OR (:last AND {STOPPED}))",
        {**_guard(own), "last": last},
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
        f" WHERE {_GUARD} AND holds_thread",
        _guard(own),
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
    cx: sqlite3.Connection, now: int, own: Ownership, outcome: Outcome, *, hold: bool = False
) -> Finish:
    """Decide, unless that was done, and settle, in one statement. `hold` only decides: the task that
    reports its own end has not stopped yet, so the thread stays held until `settle`.

    A rollback that was decided first keeps the thread held (`undo`) until `settle`: the state must
    be back before the next run may read it.
    """
    if outcome.status not in TERMINAL:
        raise ValueError(f"{outcome.status} is no outcome")
    written = _written(outcome)
    given = {**_guard(own), **written, "now": now, "leaves": int(_leaves(own, outcome)), "hold": int(hold)}
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
        elif interrupted or interrupts is not None:
            cx.execute(
                "UPDATE threads SET interrupts = ?, updated_at = ? WHERE thread_id = ?",
                (interrupts, now, own.thread_id),
            )
    elif _keeps(own, decision, outcome, hold=hold):
        _write_values(cx, own.thread_id, values, None, now)
    return Finish(decision.status, next_home=home, decision=decision)


def _written(outcome: Outcome) -> dict[str, Any]:
    """The outcome as columns, by their names. Raises ValueError, TypeError for what JSON cannot hold."""
    values = dumps_or_null(outcome.values)
    return {
        "values": values,
        "delivered_at": outcome.delivered_at,
        "stopped_at": outcome.stopped_at,
        "paused": int(outcome.paused),
        "interrupts": dumps_or_null(outcome.interrupts),
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


HELD = "COALESCE((SELECT t.\"values\" FROM threads t WHERE t.thread_id = runs.thread_id), 'null')"
"""The values of the run's thread, as the state that the run has left."""
_LEAVES = f":leaves AND (status IN {OPEN_STATUSES} OR (:values IS NOT NULL AND NOT :hold AND {STOPPED}))"
_FINISH = (
    "UPDATE runs SET holds_thread = holds_thread AND :hold, settled_at = CASE WHEN NOT :hold THEN :now END,"
    " ended_at = COALESCE(ended_at, :now), updated_at = :now,"
    " cancel_delivered_at = COALESCE(:delivered_at, cancel_delivered_at),"
    " stopped_at = COALESCE(:stopped_at, stopped_at),"
    f" checkpointed = checkpointed OR ({_LEAVES}),"
    f" checkpoint_values = CASE WHEN {_LEAVES} AND :values IS NOT NULL THEN"
    f" CASE WHEN status NOT IN {OPEN_STATUSES} OR :result IS NOT :values THEN :values END"
    f" WHEN checkpointed OR ({_LEAVES}) THEN {HELD} END,"
    f" paused = CASE WHEN status IN {OPEN_STATUSES} THEN :paused ELSE paused END,"
    f" interrupts = CASE WHEN status IN {OPEN_STATUSES} THEN :interrupts ELSE interrupts END,"
    f" result = CASE WHEN status IN {OPEN_STATUSES} THEN :result ELSE result END,"
    f" error = CASE WHEN status IN {OPEN_STATUSES} THEN :error ELSE error END,"
    f" status = CASE WHEN status IN {OPEN_STATUSES} THEN :status ELSE status END"
    f" WHERE {_GUARD} AND (status IN {OPEN_STATUSES} OR cancel_action IS NOT 'rollback'"
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
        " stopped_at = COALESCE(:stopped_at, stopped_at),"
        " cancel_delivered_at = COALESCE(:delivered_at, cancel_delivered_at),"
        " rollback_state = COALESCE(:rollback_state, rollback_state), error = COALESCE(:error, error)"
        f" WHERE {_GUARD} AND status NOT IN {OPEN_STATUSES} RETURNING {DECISION_COLUMNS}",
        {
            **_guard(own),
            "now": now,
            "stopped_at": outcome.stopped_at,
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
        f" WHERE {_GUARD} AND holds_thread RETURNING fence",
        {**_guard(own), "now": now},
    ).fetchone()
    if row is not None:
        cx.execute(
            "UPDATE threads SET fence = ?, updated_at = ? WHERE thread_id = ?", (row[0], now, own.thread_id)
        )
    else:
        row = cx.execute(
            "SELECT fence FROM runs WHERE run_id = :run AND owner_epoch = :epoch"
            f" AND fence > :fence AND :fence > 0 AND holds_thread AND {LIVE}",
            _guard(own),
        ).fetchone()
    return None if row is None else own._replace(fence=row[0])


def next_home(cx: sqlite3.Connection, thread_id: str) -> int | None:
    """The home epoch of the head of the queue, or ANY_WORKER. See `Finish`."""
    return _after(cx, thread_id)[0]


def _guard(own: Ownership) -> dict[str, Any]:
    return {"run": own.run_id, "epoch": own.epoch, "fence": own.fence}


def _why_not(cx: sqlite3.Connection, own: Ownership) -> Finish:
    decision = standing(cx, own.run_id)
    if decision is None or not _mine(cx, decision, own):
        return Finish(decision.status if decision else None, lost=True, decision=decision)
    if decision.settled:  # repeated after an unknown outcome
        return Finish(decision.status, next_home=next_home(cx, own.thread_id), decision=decision)
    return Finish(decision.status, undo=decision.action is CancelAction.rollback, decision=decision)


def _mine(cx: sqlite3.Connection, decision: Decision, own: Ownership) -> bool:
    """The row carries the epoch and fence of `own`, and that worker is not dead."""
    return (decision.owner_epoch, decision.fence) == (own.epoch, own.fence) and not is_dead(cx, own.epoch)


def _values(cx: sqlite3.Connection, thread_id: str) -> Json:
    (values,) = cx.execute('SELECT "values" FROM threads WHERE thread_id = ?', (thread_id,)).fetchone()
    return loads(values)


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
