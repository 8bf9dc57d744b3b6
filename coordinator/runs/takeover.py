"""Executes runs that another worker admitted, if their assistant is registered here: queued runs that were
claimed, and runs that are continued after their worker has died or drained."""

from __future__ import annotations

import logging

from coordinator.assistants.ports import retries_of
from coordinator.assistants.registry import Assistants
from coordinator.record import PROGRESS_FIELDS
from coordinator.runs.admission import Admissions
from coordinator.runs.capacity import Capacity
from coordinator.runs.entry import Entry
from coordinator.runs.execution import Execution
from coordinator.runs.registry import Registry
from coordinator.telemetry import Telemetry
from coordinator.telemetry.events import RunContinued
from stores.base import ReadStore
from stores.rows import Admission, Ownership, RunRow
from stores.spec import AdmissionRequest, RunSpec

logger = logging.getLogger(__name__)

LONGEST_PAUSE = 30.0  # s, before an attempt


class Takeover:
    def __init__(
        self,
        store: ReadStore,
        registry: Registry,
        *,
        admissions: Admissions,
        execution: Execution,
        assistants: Assistants,
        telemetry: Telemetry,
        capacity: Capacity,
    ) -> None:
        self._capacity = capacity
        self._store, self._registry, self._telemetry = store, registry, telemetry
        self._taking = set[Ownership]()
        self._admissions, self._execution, self._assistants = admissions, execution, assistants

    async def run(self, own: Ownership) -> bool:
        """Executes a run that was claimed with `own`, or, after another attempt of it, given to this worker
        by a sweep. Returns False if its assistant is not registered here. Claims and decisions that arrive
        meanwhile are applied. Idempotent."""
        known = self._registry.under_way(own.run_id)
        if own in self._taking or (known is not None and known.own == own):
            return True
        self._taking.add(own)
        try:
            return await self._take(own)
        finally:
            self._taking.discard(own)

    async def _take(self, own: Ownership) -> bool:
        with self._registry.admitting(own.thread_id, own.run_id, taken_over=True):
            row = await self._store.row(own.run_id)
            if row is None or (assistant := self._assistants.get(row.assistant_id)) is None:
                return False
            if (row.owner_epoch, row.fence) != (own.epoch, own.fence) or row.settled:
                return True  # another worker has it, or has ended it
            thread = await self._store.thread(own.thread_id)
            if self._registry.owned(own.run_id) is not None:
                return True  # this worker has claimed it again meanwhile, in a later epoch
            if not row.open:
                self._registry.request_refresh(own.run_id)
            entry = self._register(row, own, temporary=thread is not None and thread.temporary)
        if entry is None or not row.open:
            return True
        if row.attempt > 1:
            self._telemetry.emit(RunContinued(own.run_id, own.thread_id, row.attempt))
            if (hold := entry.state.hold) is not None:
                hold.pause = pause_before(deaths=retries_of(assistant) - row.retries)
        else:
            logger.info("Run %r, which another worker has admitted, is executed by this one", own.run_id)
        self._capacity.expect(entry.record)
        task = self._execution.launch(entry.record, assistant)
        task.add_done_callback(lambda _: self._capacity.expect_no_more(entry.record))
        return True

    def _register(self, row: RunRow, own: Ownership, *, temporary: bool) -> Entry | None:
        admission = Admission(own.run_id, holds=True, fence=own.fence, seq=row.seq, temporary=temporary)
        request = AdmissionRequest(row.run_id, RunSpec.of(row), row.created_at, portable=row.portable)
        record = self._admissions.register(request, admission, own, taken_over=True)
        record.take(row.counters, PROGRESS_FIELDS)
        entry = self._registry.entry(own.run_id)
        if entry is not None and (hold := entry.state.hold) is not None:
            hold.attempt = row.attempt
            hold.rollback_ref = row.rollback_ref if row.started_at is not None else None
        return entry


def pause_before(*, deaths: int) -> float:
    """Seconds before the next attempt: none after the first death of its worker, then 1, 2, 4, ... A run that
    kills its workers must not kill them one after another without a pause."""
    return 0.0 if deaths < 2 else min(LONGEST_PAUSE, 2.0 ** (min(deaths, 10) - 2))
