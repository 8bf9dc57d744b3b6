"""Runs that this worker admits and others execute."""

from __future__ import annotations

from dataclasses import replace

from coordinator.errors import InvalidArgument
from coordinator.record import RunRecord, record_of
from coordinator.runs.jobs import Jobs
from coordinator.runs.thread_queue import ThreadQueue
from coordinator.telemetry import Telemetry
from coordinator.telemetry.events import RunAdmitted
from stores.base import DecisionStore
from stores.outbox import Outbox
from stores.rows import Admission, Decision
from stores.spec import AdmissionRequest
from stores.states import OPEN, CancelAction, Cause, RunStatus

EXECUTES_NONE = (
    "must be the name of a registered assistant: this worker only admits runs (setting admit_only), and the"
    " workers that execute them find the assistant by its name"
)


class Dispatch:
    """`admit_only`: this worker executes no runs. A run that it admits waits in its thread's queue without a
    home, also if the thread is free, and is not kept in the memory of this worker."""

    def __init__(
        self,
        store: DecisionStore,
        queue: ThreadQueue,
        *,
        jobs: Jobs,
        outbox: Outbox,
        telemetry: Telemetry,
        admit_only: bool,
    ) -> None:
        self._store, self._queue, self._jobs, self._outbox = store, queue, jobs, outbox
        self._telemetry, self.admit_only = telemetry, admit_only

    def check_executes(self) -> None:
        """For a run that only this worker could execute. Raises InvalidArgument if it executes none."""
        if self.admit_only:
            raise InvalidArgument("assistant_id", EXECUTES_NONE)

    def admitted(self, request: AdmissionRequest, admission: Admission) -> RunRecord:
        """Returns the record of the run, and notifies workers that can execute it, unless it is delayed."""
        spec = request.spec
        if admission.ended(spec.parent_run_id):
            spec = replace(spec, parent_run_id=None)
        record = record_of(request.run_id, spec, request.created_at)
        record.store_only = True
        if spec.delay_ms is None:
            name = f"dispatching a run of thread {spec.thread_id!r}"
            self._jobs.spawn(self._queue.dispatch(spec.thread_id), name)
        self._telemetry.emit(RunAdmitted(request.run_id, spec.thread_id, spec.multitask_strategy, False))
        return record

    async def withdraw(self, request: AdmissionRequest, decision: Decision, epoch: int) -> Decision | None:
        """Ends a run whose admission is withdrawn. `decision`: how it stands. Another worker may have it by
        now: it is cancelled like any other."""
        if decision.status not in OPEN:
            return decision
        return await self._outbox.deliver(
            request.run_id,
            epoch,
            "an admission that is withdrawn",
            lambda: self._store.decide(
                request.run_id,
                RunStatus.interrupted,
                action=CancelAction.interrupt,
                cause=Cause.disconnect,
                reason="the caller of the admission was cancelled",
            ),
        )
