"""register, beat, fence_worker, sweep: which workers are alive, and what becomes of the runs of dead ones.
See functions/5_workers.sql.

A sweep is a read and a transaction for each run that it returned, not one for all: none of them locks more
than one thread, so that no two sweeps wait for each other.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import NamedTuple

from stores.rows import DrainRequested, HandedOver, Json, NewWorker, Orphan, Ownership, WorkerRow
from stores.sql.codec import loads
from stores.sql.postgres.calls import (
    OUTCOME_UNKNOWN,
    Call,
    Function,
    Query,
    Row,
    Rows,
    Unknown,
    nothing,
    scalar,
)
from stores.sql.postgres.codec import children_of, text, with_saved
from stores.sql.readable import readable
from stores.states import RunStatus, WorkerState
from stores.thread_states import noted_kind

ROLLBACK_ATTEMPTS = 3
PATIENCE = 600_000_000
"""us. A portable run without a home, whose time has come, waits so long for a worker that knows its
assistant (a deployment may be down in between); then it is ended, because its thread waits with it."""

_REGISTER = Function(
    "register_worker",
    ("text", "text", "text", "bigint", "text", "text", "bigint", "text[]", "boolean", "bigint"),
)


def register(now: int | None, worker: NewWorker) -> Call[int]:
    args = (
        worker.worker_id,
        worker.host,
        worker.boot_id,
        worker.pid,
        worker.proof,
        worker.version,
        worker.ttl_ms,
        list(worker.assistants),
        worker.admits_only,
        now,
    )
    return Call(_REGISTER, args, scalar)


_BEAT = Function("beat", ("bigint", "text", "bigint"))


def beat(now: int | None, epoch: int, worker_id: str | None) -> Call[bool]:
    return Call(_BEAT, (epoch, worker_id, now), scalar)


_REQUEST_DRAIN = Function("request_drain", ("bigint", "bigint", "bigint"), "requested, already")


def request_drain(now: int | None, epoch: int | None, grace_ms: int | None) -> Call[list[DrainRequested]]:
    return Call(
        _REQUEST_DRAIN, (epoch, grace_ms, now), lambda rows: sorted(DrainRequested(*row) for row in rows)
    )


_DRAIN = Function("drain", ("bigint", "bigint"))


def drain(now: int | None, epoch: int) -> Call[list[HandedOver]]:
    return Call(_DRAIN, (epoch, now), lambda rows: [HandedOver(*row) for row in rows])


_RETIRE = Function("retire", ("bigint", "text", "bigint"))


def retire(now: int | None, epoch: int, worker_id: str | None) -> Call[None]:
    return Call(_RETIRE, (epoch, worker_id, now), nothing)


_FENCE_WORKER = Function("fence_worker", ("bigint", "bigint", "bigint", "boolean", "bigint"))


def fence_worker(now: int | None, epoch: int, hb_seq: int, by: int, *, proven: bool) -> Call[bool]:
    return Call(_FENCE_WORKER, (epoch, hb_seq, by, proven, now), scalar)


_DECLARE_DEAD = Function("declare_dead", ("bigint", "bigint", "text", "bigint"))


def declare_dead(now: int | None, epoch: int, by: int, actor: str) -> Call[bool]:
    return Call(_DECLARE_DEAD, (epoch, by, text(actor), now), scalar)


class Orphaned(NamedTuple):
    """A run in flight without a live worker. `epoch`: its owner's, or its home's."""

    run_id: str
    thread_id: str
    epoch: int | None
    status: RunStatus
    child: bool
    ref: tuple[Json] | None
    """None where its rollback reference is damaged: one such row must not stop the recovery of all others."""
    way: str
    """'end', or 'adopt' and 'handed over': the worker that sweeps may continue it. The worker of the latter
    lives."""

    @property
    def adoptable(self) -> bool:
        return self.way in ("adopt", "handed over") and self.ref is not None

    @property
    def ends(self) -> bool:
        return self.way == "end" or (self.way == "adopt" and self.ref is None)

    @property
    def noted_ref(self) -> Json:
        """See `Orphan`."""
        ref = None if self.ref is None else self.ref[0]
        return ref if noted_kind(ref) else None


_ORPHANS = Function("orphans", ("bigint", "bigint", "bigint", "bigint", "bigint"))


def orphaned(
    now: int | None, *, by: int | None = None, only: int | None = None, before: int | None = None
) -> Call[list[Orphaned]]:
    """Those that a sweep of `by` ends or continues."""
    return Call(_ORPHANS, (by, only, before, PATIENCE, now), lambda rows: [_orphaned(row) for row in rows])


def _orphaned(row: Row) -> Orphaned:
    run_id, thread_id, epoch, status, child, *ref, way = row
    return Orphaned(run_id, thread_id, epoch, RunStatus.stored(status), child, readable_ref(*ref), way)


def readable_ref(
    ref: str | None, saved: bool, values: str | None, interrupts: str | None
) -> tuple[Json] | None:
    """None where it is damaged."""
    try:
        return (with_saved(ref, values, interrupts) if saved else loads(ref),)
    except (TypeError, ValueError):
        return None


_END = Function(
    "end_orphan",
    ("text", "text", "bigint", "bigint", "text", "boolean", "bigint", "bigint"),
    "reply, status, fence, decided, children",
)


def end_orphan(now: int | None, run: Orphaned, by: int | None, error: str) -> Call[Orphan | Unknown | None]:
    """The orphan; None where another worker was faster, or `by` is dead and cannot adopt it."""
    args = (
        run.run_id,
        run.thread_id,
        run.epoch,
        by,
        text(error),
        run.ref is not None,
        ROLLBACK_ATTEMPTS,
        now,
    )

    def answer(rows: Rows) -> Orphan | None:
        reply, status, fence, decided, children = rows[0]
        if reply is None:
            return None
        orphan = Orphan(
            run.run_id,
            run.thread_id,
            RunStatus.stored(status),
            run.epoch,
            rollback_ref=run.noted_ref,
            decided=decided,
            children=children_of(children),
        )
        if reply == "ended":
            return orphan
        own = Ownership(run.run_id, run.thread_id, by or 0, fence)
        ref = None if run.ref is None else run.ref[0]
        return replace(orphan, adopted=own, rollback_ref=ref)

    return Call(_END, args, answer, again=lambda rows: answer(rows) or OUTCOME_UNKNOWN)


_ADOPTED = Query(
    "SELECT run_id, thread_id, status, fence, rollback_ref, saved, saved_values, saved_interrupts"
    " FROM rc.runs WHERE owner_epoch = $1 AND holds_thread AND rollback_state LIKE 'adopted %'"
    " AND EXISTS (SELECT FROM rc.workers WHERE epoch = $1 AND state <> 'dead')"
)


def adopted_before(by: int) -> Call[list[Orphan]]:
    """What `by` has adopted and not settled yet: the first answer may be lost."""

    def answer(rows: Rows) -> list[Orphan]:
        adopted: list[Orphan] = []
        for run_id, thread_id, status, fence, *kept in rows:
            if (ref := readable_ref(*kept)) is not None:
                own = Ownership(run_id, thread_id, by, fence)
                adopted.append(
                    Orphan(run_id, thread_id, RunStatus.stored(status), None, own, ref[0], decided=True)
                )
        return adopted

    return Call(_ADOPTED, (by,), answer)


_STRAYS = Function("settle_strays", ("bigint",))


def settle_strays(now: int | None) -> Call[None]:
    return Call(_STRAYS, (now,), nothing)


_READOPT = Function("readopt", ("text", "text", "bigint", "bigint", "bigint", "bigint"))


def readopt(now: int | None, own: Ownership) -> Call[Ownership | None]:
    def answer(rows: Rows) -> Ownership | None:
        fence = scalar(rows)
        return None if fence is None else own._replace(fence=fence)

    return Call(_READOPT, (own.run_id, own.thread_id, own.epoch, own.fence, ROLLBACK_ATTEMPTS, now), answer)


_WORKERS = (
    "SELECT w.epoch, worker_id, host, boot_id, pid, version, state, hb_seq, ttl_ms, lease_until, fenced_by,"
    " started_at, proof, admits_only, {numbers}, lease_until < rc.clock($1)"
    " FROM rc.workers w{counts} WHERE {which} ORDER BY w.epoch"
)
_COUNTS = (
    " LEFT JOIN (SELECT owner_epoch, count(*) AS holding FROM rc.runs WHERE holds_thread GROUP BY 1) held"
    " ON held.owner_epoch = w.epoch"
    " LEFT JOIN (SELECT owner_epoch, count(*) AS stopping FROM rc.runs"
    " WHERE settled_at IS NULL AND cancel_action IS NOT NULL GROUP BY 1) cancelled"
    " ON cancelled.owner_epoch = w.epoch"
)


@cache
def _workers(alive_only: bool, counted: bool) -> Query:
    numbers, counts = "0::bigint, 0::bigint", ""
    if counted:
        numbers, counts = "COALESCE(holding, 0), COALESCE(stopping, 0)", _COUNTS
    which = "state <> 'dead'" if alive_only else "true"
    return Query(_WORKERS.format(numbers=numbers, counts=counts, which=which))


def workers(now: int | None, *, alive_only: bool, counted: bool) -> Call[list[WorkerRow]]:
    """Workers, oldest first; `counted`: with the numbers of threads that each holds, and of its runs that
    are stopping."""
    return Call(_workers(alive_only, counted), (now,), lambda rows: readable("worker", rows, _worker))


def _worker(row: Row) -> WorkerRow:
    epoch, worker_id, host, boot_id, pid, version, state, *numbers = row
    hb_seq, ttl_ms, lease_until, fenced_by, started_at, proof, admits_only, holding, stopping, expired = (
        numbers
    )
    return WorkerRow(
        epoch=epoch,
        worker_id=worker_id,
        host=host,
        boot_id=boot_id,
        pid=pid,
        version=version,
        state=WorkerState.stored(state),
        hb_seq=hb_seq,
        ttl_ms=ttl_ms,
        lease_until=lease_until,
        fenced_by=fenced_by,
        started_at=started_at,
        proof=proof,
        admits_only=admits_only,
        holding=holding,
        stopping=stopping,
        expired=expired,
    )
