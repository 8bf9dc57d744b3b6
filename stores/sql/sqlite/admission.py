"""admit, insert, claim: how a run gets onto its thread."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from typing import NamedTuple

from stores.errors import (
    ConflictError,
    EpochDead,
    IdempotencyConflict,
    ParentEnded,
    QueueFull,
    RunNotFound,
    ThreadNotFound,
)
from stores.rows import Admission, Claimed, Decision, Limits, Ownership, RunRow, Started
from stores.spec import COLUMN_NAMES, AdmissionRequest, RunSpec
from stores.sql.codec import RUN_COLUMNS, dumps, loads, run_row, running, spec_writer, storable
from stores.sql.conditions import IN_FLIGHT, WAITING, WAITS
from stores.sql.sqlite import crons, threads
from stores.sql.sqlite.codec import HOMELESS, IN_FLIGHT_RUNS, KNOWN
from stores.sql.sqlite.decisions import decide
from stores.sql.sqlite.guards import is_dead
from stores.states import OPEN, CancelAction, Cause, RunStatus, Strategy
from stores.times import stamp

_ACTION = {Strategy.interrupt: CancelAction.interrupt, Strategy.rollback: CancelAction.rollback}


class _InFlight(NamedTuple):
    run_id: str
    kind: str
    holds_thread: int
    waiting: int
    not_before: int | None


def admit(
    cx: sqlite3.Connection, now: int, request: AdmissionRequest, epoch: int, limits: Limits
) -> Admission:
    """Take the thread, join its queue, wait for its time or be refused. Re-runnable with the same run id.
    A run that takes its thread also starts, if the request has a `start_ref`.

    Raises ConflictError, IdempotencyConflict, QueueFull, ThreadNotFound, EpochDead, RunNotFound, ParentEnded,
    CronFired.
    """
    spec = request.spec
    existing, idle = _existing_or_idle(cx, request, epoch)
    if existing is not None:
        return existing
    if spec.firing is not None:
        crons.check_due(cx, spec.firing, now)
    _check_parent(cx, spec)
    in_flight = [] if idle else _in_flight(cx, spec.thread_id, now)
    strategy = Strategy(spec.multitask_strategy)
    if in_flight and strategy is Strategy.reject:
        raise ConflictError(spec.thread_id, in_flight[0].run_id)
    action = _ACTION.get(strategy)
    if action is None:
        free = all(other.not_before is not None for other in in_flight)
    else:
        free = not any(other.holds_thread for other in in_flight)
    holds = free and spec.delay_ms is None
    if not holds:
        if action is None:
            _check_thread_limit(spec, in_flight, limits.per_thread)
        _check_user_limit(cx, spec, limits.per_user, but_on_its_thread=action is not None)
    replaced = () if action is None else _replace(cx, request, in_flight, action, now)
    holds &= not request.dispatched
    return _place(cx, request, epoch, holds=holds, waits=not holds, replaced=replaced, now=now)


def _in_flight(cx: sqlite3.Connection, thread_id: str, now: int) -> list[_InFlight]:
    """The holder first, then the queue in its order, then delayed runs."""

    def read() -> list[_InFlight]:
        rows = cx.execute(
            f"SELECT run_id, kind, holds_thread, {WAITS}, not_before FROM {IN_FLIGHT_RUNS} WHERE"
            f" thread_id = ? AND {IN_FLIGHT} ORDER BY holds_thread DESC, not_before IS NOT NULL, seq",
            (thread_id,),
        )
        return [_InFlight(*row) for row in rows]

    runs = read()
    if any(other.not_before is not None and other.not_before <= now for other in runs):
        queue_due(cx, thread_id, now)
        runs = read()
    return runs


def queue_due(cx: sqlite3.Connection, thread_id: str, now: int) -> None:
    """Delayed runs whose time has come take the next places in the thread's queue, ahead of runs that are
    admitted after that moment: so every transaction that places or claims a run begins with this."""
    due = cx.execute(
        f"SELECT run_id FROM {IN_FLIGHT_RUNS} WHERE thread_id = ? AND {IN_FLIGHT} AND {WAITS}"
        " AND not_before <= ? ORDER BY not_before, seq",
        (thread_id, now),
    ).fetchall()
    for (run_id,) in due:
        (seq,) = cx.execute(
            "UPDATE threads SET next_seq = next_seq + 1 WHERE thread_id = ? RETURNING next_seq", (thread_id,)
        ).fetchone()
        cx.execute(
            "UPDATE runs SET seq = ?, not_before = NULL, updated_at = ? WHERE run_id = ?", (seq, now, run_id)
        )


def insert(cx: sqlite3.Connection, now: int, request: AdmissionRequest, epoch: int) -> Admission:
    """Record a pending run of this worker without the one-run-per-thread rule, for any user: which user may
    use a thread is `admit`'s rule. Raises ConflictError, IdempotencyConflict, ThreadNotFound, EpochDead,
    CronFired.

    It takes the thread where the thread is idle; otherwise it lives beside the slot (fence 0).
    """
    existing, _ = _existing_or_idle(cx, request, epoch, any_user=True)
    if existing is not None:
        return existing
    spec = request.spec
    if spec.firing is not None:
        crons.check_due(cx, spec.firing, now)
    busy = cx.execute(
        f"SELECT 1 FROM {IN_FLIGHT_RUNS} WHERE thread_id = ? AND {IN_FLIGHT}"
        " AND (not_before IS NULL OR not_before <= ?) LIMIT 1",
        (spec.thread_id, now),
    ).fetchone()
    return _place(cx, request, epoch, holds=busy is None, waits=False, replaced=(), now=now)


def claim(cx: sqlite3.Connection, now: int, thread_id: str, epoch: int) -> Claimed | None:
    """Give a free thread to the head of its queue, if this worker may execute that run.

    That is: this worker is its home; or the run is portable, its home is dead, and this worker knows
    its assistant. None = nothing to claim for this worker. A claimed run that has not started is answered
    again: the first answer may be lost. Raises EpochDead.
    """
    if is_dead(cx, epoch):
        raise EpochDead(epoch)
    queue_due(cx, thread_id, now)
    parameters = {"epoch": epoch, "thread": thread_id}
    busy = cx.execute(
        "SELECT run_id, fence, owner_epoch = :epoch AND home_epoch IS NOT NULL AND started_at IS NULL"
        f" FROM {IN_FLIGHT_RUNS} WHERE thread_id = :thread AND {IN_FLIGHT} AND NOT ({WAITS})"
        " ORDER BY holds_thread DESC LIMIT 1",
        parameters,
    ).fetchone()
    if busy is not None:
        return Claimed(*busy[:2]) if busy[2] else None
    head = cx.execute(
        f"SELECT run_id, home_epoch IS :epoch OR (portable AND {HOMELESS} AND {KNOWN})"
        f" FROM {IN_FLIGHT_RUNS} WHERE thread_id = :thread AND {WAITING} ORDER BY seq LIMIT 1",
        parameters,
    ).fetchone()
    if head is None or not head[1]:
        return None
    return take_thread(cx, now, thread_id, head[0], epoch)


def take_thread(cx: sqlite3.Connection, now: int, thread_id: str, run_id: str, epoch: int) -> Claimed:
    """Give the free thread to the head of its queue. The caller has checked both."""
    (fence,) = cx.execute(
        "UPDATE threads SET fence = fence + 1, updated_at = ? WHERE thread_id = ? RETURNING fence",
        (now, thread_id),
    ).fetchone()
    cx.execute(
        "UPDATE runs SET holds_thread = 1, owner_epoch = :epoch, home_epoch = :epoch, fence = :fence,"
        " updated_at = :now WHERE run_id = :run",
        {"epoch": epoch, "fence": fence, "now": now, "run": run_id},
    )
    return Claimed(run_id, fence)


MOST_CLAIMANTS = 8
"""Of many workers that know an assistant, so few are hinted: one claims, and the others' claims are in vain.
If all of these fail, the ticks of the others claim the run."""


def claimants(cx: sqlite3.Connection, thread_id: str) -> list[int]:
    """The live workers that may claim the free thread for the head of its queue; the newest first,
    at most MOST_CLAIMANTS. [] where it is held, or no run waits."""
    rows = cx.execute(
        f"WITH head AS (SELECT home_epoch, portable AND {HOMELESS} AS any_worker, assistant_id"
        f" FROM {IN_FLIGHT_RUNS} WHERE thread_id = :thread AND {WAITING}"
        " AND NOT EXISTS (SELECT 1 FROM runs WHERE thread_id = :thread AND holds_thread)"
        " ORDER BY seq LIMIT 1)"
        " SELECT epoch FROM head JOIN workers ON state <> 'dead' AND (epoch = home_epoch OR (any_worker"
        " AND state = 'live' AND assistant_id IN (SELECT value FROM json_each(assistants))))"
        " ORDER BY epoch DESC LIMIT :most",
        {"thread": thread_id, "most": MOST_CLAIMANTS},
    )
    return [epoch for (epoch,) in rows]


def _existing_or_idle(
    cx: sqlite3.Connection, request: AdmissionRequest, epoch: int, *, any_user: bool = False
) -> tuple[Admission | None, bool]:
    """The run that this request admitted before, if any: checked after the user, so that no caller learns of
    the runs of another user's thread. Also whether the thread is idle, which most are: that costs no
    statement of its own.

    A draining worker may still claim, but not admit.
    """
    spec = request.spec
    live, thread_exists, owner, run_exists, webhook_kept, busy = cx.execute(
        "SELECT EXISTS (SELECT 1 FROM workers WHERE epoch = :epoch AND state = 'live'),"
        " EXISTS (SELECT 1 FROM threads WHERE thread_id = :thread),"
        " (SELECT user_id FROM threads WHERE thread_id = :thread),"
        " EXISTS (SELECT 1 FROM runs WHERE run_id = :run),"
        " EXISTS (SELECT 1 FROM webhooks WHERE run_id = :run),"
        f" EXISTS (SELECT 1 FROM {IN_FLIGHT_RUNS} WHERE thread_id = :thread AND {IN_FLIGHT})",
        {"epoch": epoch, "thread": spec.thread_id, "run": request.run_id},
    ).fetchone()
    if not live:
        raise EpochDead(epoch)
    if spec.thread_must_exist and not thread_exists:
        raise ThreadNotFound(spec.thread_id)
    if (
        not any_user
        and spec.user_id not in (None, owner)
        and (owner is not None or (thread_exists and not spec.adopt_thread))
    ):
        raise ThreadNotFound(spec.thread_id)
    existing: RunRow | None = None
    if run_exists:
        existing = _same_id(cx, request)
    elif webhook_kept:  # the run is deleted and its webhook is kept: the id stays in use
        raise ConflictError(spec.thread_id)
    elif spec.idempotency_key is not None:
        existing = _same_key(cx, request)
    return (None if existing is None else Admission.of_existing(existing)), not busy


def _same_id(cx: sqlite3.Connection, request: AdmissionRequest) -> RunRow:
    spec = request.spec
    row = cx.execute(f"SELECT {RUN_COLUMNS} FROM runs WHERE run_id = ?", (request.run_id,)).fetchone()
    existing = run_row(row)
    if (existing.thread_id, existing.user_id) != (spec.thread_id, spec.user_id):
        raise ConflictError(spec.thread_id)
    return existing


def _same_key(cx: sqlite3.Connection, request: AdmissionRequest) -> RunRow | None:
    spec = request.spec
    row = cx.execute(
        f"SELECT {RUN_COLUMNS} FROM runs WHERE idempotency_key = :key AND (COALESCE(user_id, '') = :user"
        " OR thread_id = :thread)"
        " ORDER BY thread_id = :thread AND COALESCE(user_id, '') = :user DESC, run_id LIMIT 1",
        {"key": spec.idempotency_key, "user": spec.user_id or "", "thread": spec.thread_id},
    ).fetchone()
    if row is None:
        return None
    existing = run_row(row)
    if (existing.user_id, existing.thread_id, existing.request_hash) != (
        spec.user_id,
        spec.thread_id,
        request.request_hash,
    ):
        visible = existing.run_id if existing.user_id == spec.user_id else None
        raise IdempotencyConflict(spec.thread_id, spec.idempotency_key or "", visible)
    return existing


def _check_parent(cx: sqlite3.Connection, spec: RunSpec) -> None:
    """A parent that was stopped has cancelled its children: one that is admitted later would be left over.
    One that succeeded leaves them alone. Another user's parent is reported as missing."""
    if spec.parent_run_id is None:
        return
    parent = cx.execute(
        "SELECT status FROM runs WHERE run_id = :parent AND kind = 'run'"
        " AND (:user IS NULL OR user_id = :user)",
        {"parent": spec.parent_run_id, "user": spec.user_id},
    ).fetchone()
    if parent is None:
        raise RunNotFound(spec.parent_run_id)
    if parent[0] not in OPEN and parent[0] != RunStatus.success:
        raise ParentEnded(spec.parent_run_id, parent[0])


def _replace(
    cx: sqlite3.Connection,
    request: AdmissionRequest,
    in_flight: list[_InFlight],
    action: CancelAction,
    now: int,
) -> tuple[Decision, ...]:
    decisions = (
        decide(
            cx,
            now,
            other.run_id,
            RunStatus.interrupted,
            action=action,
            cause=Cause.superseded,
            reason=f"superseded by run {request.run_id}",
            actor=request.spec.user_id,
            error=None,
        )
        for other in in_flight
        if other.kind == "run"  # an operation is a short holder: the new run waits it out
    )
    return tuple(decision for decision in decisions if decision is not None)


def _check_thread_limit(spec: RunSpec, in_flight: list[_InFlight], limit: int | None) -> None:
    if limit is not None and sum(other.waiting for other in in_flight) >= limit:
        raise QueueFull(spec.thread_id, "thread", limit)


def _check_user_limit(
    cx: sqlite3.Connection, spec: RunSpec, limit: int | None, *, but_on_its_thread: bool = False
) -> None:
    """`but_on_its_thread`: runs that wait on the thread are not counted, because they will be replaced."""
    if limit is None or spec.user_id is None:
        return
    (count,) = cx.execute(
        "SELECT count(*) FROM (SELECT 1 FROM runs INDEXED BY runs_waiting_of_user"
        f" WHERE {WAITS} AND user_id = ? AND (NOT ? OR thread_id <> ?) LIMIT ?)",
        (spec.user_id, but_on_its_thread, spec.thread_id, limit),
    ).fetchone()
    if count >= limit:
        raise QueueFull(spec.thread_id, "user", limit)


_OWN_COLUMNS = (
    "run_id, portable, request_hash, created_at, created_us, updated_at, holds_thread, owner_epoch,"
    " home_epoch, fence, seq, not_before, queue_deadline_at, status, started_at, deadline_at, rollback_ref"
)
"""What admission writes beside the spec."""
_INSERTED = [*_OWN_COLUMNS.split(", "), *COLUMN_NAMES]
_INSERT = f"INSERT INTO runs ({', '.join(_INSERTED)}) VALUES ({', '.join('?' * len(_INSERTED))})"
_write_columns = spec_writer(storable, COLUMN_NAMES)


def _own_columns(
    request: AdmissionRequest, admission: Admission, epoch: int, *, waits: bool, now: int
) -> tuple[str | int | None, ...]:
    """The values of _OWN_COLUMNS."""
    delay_ms, queue_ms = request.spec.delay_ms, request.spec.queue_timeout_ms if waits else None
    not_before = None if delay_ms is None else now + delay_ms * 1000
    queue_deadline_at = None if queue_ms is None else (not_before or now) + queue_ms * 1000
    return (
        request.run_id,
        int(request.portable),  # sqlite3 looks for an adapter of a bool first
        request.request_hash,
        *stamp(request.created_at),
        now,
        int(admission.holds),
        None if waits else epoch,
        epoch if waits and not request.dispatched else None,
        admission.fence,
        admission.seq,
        not_before,
        queue_deadline_at,
        *_start_columns(request, now, starts=admission.started is not None),
    )


def _start_columns(
    request: AdmissionRequest, now: int, *, starts: bool
) -> tuple[str, int | None, int | None, str | None]:
    """The last four of _OWN_COLUMNS."""
    if not starts:
        return RunStatus.pending.value, None, None, None
    timeout_ms = request.spec.timeout_ms
    deadline_at = None if timeout_ms is None else now + timeout_ms * 1000
    return RunStatus.running.value, now, deadline_at, dumps(request.start_ref)


def _place(
    cx: sqlite3.Connection,
    request: AdmissionRequest,
    epoch: int,
    *,
    holds: bool,
    waits: bool,
    replaced: tuple[Decision, ...],
    now: int,
) -> Admission:
    """A run that takes the place of its own parent has no parent: it would end with it."""
    spec = request.spec
    starts = holds and request.start_ref is not None
    fence, seq, temporary, values = threads.touch(cx, request, holds=holds, starts=starts, now=now)
    started = None
    if starts:
        own = Ownership(request.run_id, spec.thread_id, epoch, fence)
        started = Started(running(own, None), loads(values))
    admission = Admission(request.run_id, holds, fence, seq, replaced, temporary=temporary, started=started)
    if admission.ended(spec.parent_run_id):
        spec = replace(spec, parent_run_id=None)
    own_columns = _own_columns(request, admission, epoch, waits=waits, now=now)
    cx.execute(_INSERT, (*own_columns, *_write_columns(spec)))
    if spec.firing is not None:
        crons.advance(cx, spec.firing, run_id=request.run_id, error=None, now=now)
    if spec.webhook is not None:
        cx.execute(
            "INSERT INTO webhooks (run_id, thread_id, user_id, url, created_at) VALUES (?, ?, ?, ?, ?)",
            (request.run_id, spec.thread_id, spec.user_id, spec.webhook, now),
        )
    return admission
