"""Response models of `/coordinator/…`. Times are ISO 8601 in UTC, None = not yet."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal, Self

from coordinator.gateway.lazy import LazyModel
from coordinator.resources.runs import Explanation
from coordinator.schemas import Receipt
from coordinator.workers.health import Health
from coordinator.workers.identity import slot_of
from stores.rows import Transition, WorkerRow

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _moment(micros: int | None) -> datetime | None:
    return None if micros is None else _EPOCH + timedelta(microseconds=micros)


class WorkerOut(LazyModel):
    epoch: int
    worker_id: str
    slot: int | None
    """The worker's number in its server, as in its log lines; None = it is not one of several."""
    host: str
    pid: int
    version: str
    state: str
    expired: bool
    holding: int
    """Number of threads that runs of the worker hold."""
    stopping: int
    """Number of its runs that were cancelled and have not stopped."""
    lease_until: datetime | None
    started_at: datetime | None

    @classmethod
    def of(cls, row: WorkerRow) -> Self:
        return cls(
            epoch=row.epoch,
            worker_id=row.worker_id,
            slot=slot_of(row.worker_id),
            host=row.host,
            pid=row.pid,
            version=row.version,
            state=row.state.value,
            expired=row.expired,
            holding=row.holding,
            stopping=row.stopping,
            lease_until=_moment(row.lease_until),
            started_at=_moment(row.started_at),
        )


class Step(LazyModel):
    at: datetime | None
    what: str
    from_status: str | None
    to_status: str
    holds_thread: bool
    cause: str | None
    actor: str | None
    detail: str | None
    epoch: int | None
    fence: int | None

    @classmethod
    def of(cls, step: Transition) -> Self:
        return cls(
            at=_moment(step.at),
            what=step.what,
            from_status=step.from_status and step.from_status.value,
            to_status=step.to_status.value,
            holds_thread=step.holds_thread,
            cause=step.cause and step.cause.value,
            actor=step.actor,
            detail=None if step.detail is None else str(step.detail),
            epoch=step.epoch,
            fence=step.fence,
        )


class Explained(LazyModel):
    run_id: str
    thread_id: str
    status: str
    phase: str
    position: int | None
    """Position in the queue of the thread, from 1, whatever other threads wait for; of a run that holds its
    thread, among those that wait for a place of its worker. None = the run does not wait."""
    waits_for: str | None
    """Of a queued run whose thread is free: the worker or the run that it waits for."""
    holder: str | None
    """The run that holds the thread, if it is another one."""
    error: str | None
    timeline: list[Step]

    @classmethod
    def of(cls, explanation: Explanation) -> Self:
        return cls(
            run_id=explanation.run.run_id,
            thread_id=explanation.run.thread_id,
            status=explanation.run.status.value,
            phase=explanation.phase.value,
            position=explanation.position,
            waits_for=explanation.waits_for,
            holder=explanation.holder,
            error=explanation.run.error,
            timeline=[Step.of(step) for step in explanation.transitions],
        )


class ReceiptOut(LazyModel):
    run_id: str
    status: str
    phase: str
    action: str | None
    cause: str | None
    reason: str | None
    actor: str | None
    requested_at: datetime | None
    delivered_at: datetime | None
    stopped_at: datetime | None
    settled_at: datetime | None

    @classmethod
    def of(cls, receipt: Receipt) -> Self:
        return cls(
            run_id=receipt.run_id,
            status=receipt.status.value,
            phase=receipt.phase.value,
            action=receipt.action and receipt.action.value,
            cause=receipt.cause and receipt.cause.value,
            reason=receipt.reason,
            actor=receipt.actor,
            requested_at=_moment(receipt.requested),
            delivered_at=_moment(receipt.delivered),
            stopped_at=_moment(receipt.stopped),
            settled_at=_moment(receipt.settled),
        )


class HealthSummary(LazyModel):
    status: Literal["ready", "not ready"]
    state: str
    store_reachable: bool
    redis: str
    """`off` if hints do not travel by Redis."""
    hints: str
    """The same of the transport of hints, which may be PostgreSQL."""

    @classmethod
    def of(cls, health: Health) -> HealthSummary:
        return HealthSummary(
            status="ready" if health.ready else "not ready",
            state=health.state,
            store_reachable=health.store_reachable,
            redis=health.redis.value,
            hints=health.connectivity.value,
        )


class HealthDetails(HealthSummary):
    """Times are in seconds."""

    epoch: int
    why_not: list[str]
    lease_remaining: float | None
    store_error: str | None
    transport_error: str | None
    """Why hints are not delivered, or why events cannot be appended to logs."""
    blocked_by: int | None
    """Process id of the process whose write lock blocks all others."""
    ticked_ago: float | None
    swept_ago: float | None
    loop_lag: float | None
    thread_jobs: int | None
    """Thread jobs that run or wait for a thread; null if they are not counted."""
    outliving: list[str]
    """The run of each thread job whose run has ended."""
    overdue: list[str]
    """Runs that did not stop after their cancel, were settled by force, and still execute."""
    unreadable_rows: int
    """Rows of the store that this worker could not read and left out of lists."""
    failing_projections: list[str]
    """Projections to which this worker could not deliver a change, and why."""
    unclaimed_runs: list[str]
    """Of a worker that only admits: assistants whose runs no live worker executes, with their number."""

    @classmethod
    def of(cls, health: Health) -> HealthDetails:
        return cls(
            **HealthSummary.of(health).model_dump(),
            epoch=health.epoch,
            why_not=list(health.why_not),
            lease_remaining=health.lease_remaining,
            store_error=health.store_error,
            transport_error=health.transport_error,
            blocked_by=health.blocked_by,
            ticked_ago=health.ticked_ago,
            swept_ago=health.swept_ago,
            loop_lag=health.loop_lag,
            thread_jobs=health.thread_jobs,
            outliving=list(health.outliving),
            overdue=list(health.overdue),
            unreadable_rows=health.unreadable_rows,
            failing_projections=list(health.failing_projections),
            unclaimed_runs=list(health.unclaimed_runs),
        )
