"""The life cycle of a run as its code reports it: start, status, completion, progress."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

from coordinator.assistants.ports import ThreadStates
from coordinator.assistants.removal import StateRemoval
from coordinator.clock import Stamps
from coordinator.errors import CoordinatorError, LeaseLost, StoreUnavailable
from coordinator.record import COMPLETION_FIELDS, PROGRESS_FIELDS, RunRecord
from coordinator.runs.cancellation import Delivery
from coordinator.runs.entry import Entry
from coordinator.runs.incarnation import Incarnation
from coordinator.runs.jobs import Jobs, through
from coordinator.runs.outcomes import refused, row_of, text_of
from coordinator.runs.registry import Registry
from coordinator.runs.settlement import Settlement
from coordinator.runs.states import Hold, Holding, Waiting
from coordinator.runs.timeouts import Timeouts
from coordinator.schemas import Json, RunStatus
from coordinator.telemetry import Telemetry
from coordinator.telemetry.events import RunStarted
from stores.base import OwnershipStore, ReadStore, RecordStore
from stores.json_values import JsonObject
from stores.outbox import Outbox
from stores.rows import Decision, Outcome, Ownership, Started
from stores.states import OPEN, TERMINAL

logger = logging.getLogger(__name__)

DROPPED = "The run was cleaned up before its end"


class LifecycleStore(OwnershipStore, RecordStore, ReadStore, Protocol):
    """Store operations of the life cycle."""


class Lifecycle:
    def __init__(
        self,
        store: LifecycleStore,
        registry: Registry,
        *,
        settlement: Settlement,
        delivery: Delivery,
        worker: Incarnation,
        timeouts: Timeouts,
        states: ThreadStates,
        removal: StateRemoval,
        jobs: Jobs,
        outbox: Outbox,
        telemetry: Telemetry,
        stamps: Stamps,
    ) -> None:
        self._store, self._registry, self._outbox = store, registry, outbox
        self._settlement, self._delivery, self.states = settlement, delivery, states
        self._removal = removal
        self._jobs, self._telemetry, self._stamps = jobs, telemetry, stamps
        self._worker = worker
        self._timeouts = timeouts
        self._progress_due, self._model_names_due = set[Entry](), set[Entry]()

    # -- pending -> running

    async def turn(self, entry: Entry) -> None:
        """Waits until the run holds its thread, or must not run."""
        if isinstance(entry.state, Waiting):
            await entry.state.turn.wait()

    async def start(self, entry: Entry, states: ThreadStates, *, patient: bool = True) -> Started | None:
        """Waits until the run holds its thread, opens its state, commits `running`. Returns None if it must
        not run: then its record has the decision, its abort event is set and its task is cancelled. While
        the store is unavailable the start is retried until the lease expires; with `patient=False`
        StoreUnavailable is raised instead."""
        await self.turn(entry)
        state = entry.state
        if not isinstance(state, Holding) or state.end.outcome is not None or not entry.open:
            return self._refused(entry)
        hold, own = state.hold, state.hold.own
        hold.states = states
        # A run beside the slot (fence 0) does not use the thread's state.
        ref = await self._opened(own, states, patient=patient) if own.fence else None
        hold.opened = ref
        if hold.rollback_ref is None:  # else the first attempt's: a rollback undoes all attempts
            hold.rollback_ref = ref
        started = hold.start or await self._outbox.deliver(
            own.run_id, own.epoch, "the start of a run", partial(self._write_start, own, ref), patient=patient
        )
        if started is None:
            self._settlement.lose(entry, "the run was taken over before it started")
            return None
        if started.decision.status is not RunStatus.running:
            await self._delivery.refresh_from_store(own.run_id)
            return self._refused(entry)
        return self._running(entry, hold, started)

    async def _opened(self, own: Ownership, states: ThreadStates, *, patient: bool) -> Json:
        """Opens the state of the run's thread; returns the rollback reference."""
        if states is not self.states:
            cleared = partial(self._removal.before, own, states)
            await self._outbox.deliver(own.run_id, own.epoch, "the start of a run", cleared, patient=patient)
        return await states.open(own.thread_id, own.run_id, own.fence)

    async def start_by_id(self, run_id: str) -> bool:
        """As `start`, for a run without a registered agent. Returns False if it must not run or is unknown
        to this worker."""
        entry = self._registry.entry(run_id)
        if entry is None:
            return False
        return entry.open if entry.started else await self.start(entry, self.states) is not None

    def _write_start(self, own: Ownership, ref: Json) -> Awaitable[Started | None]:
        return self._store.start(own, ref)

    async def refresh_from_store(self, entry: Entry) -> None:
        """Reads the run's row and applies it."""
        await self._delivery.refresh_from_store(entry.record.run_id)

    def _running(self, entry: Entry, hold: Hold, started: Started) -> Started | None:
        hold.started = True
        # While `running` was being written, the run was cancelled or settled by force.
        if not isinstance(entry.state, Holding):
            return self._refused(entry)
        record = entry.record
        record.status, record.updated_at = RunStatus.running, self._stamps.now()
        self._timeouts.runs(entry)
        if not entry.operation:
            event = RunStarted(record.run_id, record.thread_id, hold.own.fence, record.assistant_id)
            self._telemetry.emit(event)
        return started

    def _refused(self, entry: Entry) -> None:
        if entry.abort is not None:
            entry.cancel_task(entry.abort)

    # -- status, reported by callers with a task of their own

    async def set_status(self, run_id: str, status: RunStatus, error: str | None) -> None:
        entry = self._registry.entry(run_id)
        if entry is None:
            logger.warning("set_status(%s) is ignored: run %r is unknown to this worker", status, run_id)
            return
        if entry.elsewhere:
            logger.warning("set_status(%s) is ignored: run %r was lost to another worker", status, run_id)
            return
        entry.touch()
        if status is RunStatus.running:
            if not entry.started and await self.start(entry, self.states) is None:
                await asyncio.sleep(0)  # if the calling task is cancelled, CancelledError is raised here
            self._settlement.supervise(entry)
        elif status in TERMINAL:
            await self._end(entry, status, error)

    async def _end(self, entry: Entry, status: RunStatus, error: str | None) -> None:
        record = entry.record
        if record.status not in OPEN:
            if record.status is not status:
                logger.info("Run %r is %s already; %s is not written", record.run_id, record.status, status)
            return
        if entry.own is None:
            await self._end_waiting(entry, Outcome(status, error))
        elif record.task_active:
            await through(
                self._jobs.spawn(self._decide_own(entry, Outcome(status, error)), f"run {record.run_id!r}")
            )
        else:
            await self._settlement.conclude(entry, Outcome(status, error))

    async def _decide_own(self, entry: Entry, outcome: Outcome) -> None:
        """Decides the end that the task reports for itself; the run settles when the task has stopped. The
        record changes after the store's response, because another decision may have come first."""
        record, own = entry.record, entry.own
        self._settlement.supervise(entry)
        if own is not None:
            try:
                finish = await self._store.finish(own, outcome, hold=True)
            except Exception as error:  # noqa: BLE001 - settlement writes it again
                logger.warning(
                    "%s of run %r will be written when its task stops: %s",
                    outcome.status,
                    own.run_id,
                    text_of(error),
                )
            else:
                if finish.lost and finish.decision is not None:
                    self._settlement.lose(entry, "another worker has the thread")
                    return
                if finish.status is not None and finish.status is not outcome.status:
                    await self._delivery.refresh_from_store(own.run_id)
                    record.status = finish.status
        if record.status in OPEN:
            record.status, record.updated_at = outcome.status, self._stamps.now()
            record.error = outcome.error if outcome.error is not None else record.error
        if not record.task_active:
            self._settlement.conclude_soon(entry, None)

    async def _end_waiting(self, entry: Entry, outcome: Outcome) -> None:
        """Ends a queued run. Returns when it is settled, or when its end is queued because the store is
        unavailable. A claim that comes meanwhile does not start the run."""
        entry.report(outcome)
        await through(self._jobs.spawn(self._write_or_queue(entry, outcome), f"run {entry.record.run_id!r}"))

    async def _write_or_queue(self, entry: Entry, outcome: Outcome) -> None:
        try:
            await self._write_end(entry, outcome, patient=False)
        except StoreUnavailable:
            retrying = self._write_end(entry, outcome, patient=True)
            self._jobs.spawn(retrying, f"the end of run {entry.record.run_id!r}")

    async def _write_end(self, entry: Entry, outcome: Outcome, *, patient: bool) -> None:
        """Writes the end of a queued run, even if its entry was dropped."""
        run_id, what = entry.record.run_id, "the end of a waiting run"

        async def unless_lost() -> tuple[bool | None, Decision | None]:  # a peer ends or executes a lost run
            if entry.elsewhere:
                return False, None
            nonlocal outcome
            try:
                written = await self._store.update_status(run_id, outcome.status.value, error=outcome.error)
            except CoordinatorError:
                raise
            except Exception as error:  # noqa: BLE001 - the run must end, at least with another text
                outcome = refused(outcome, error)
                written = await self._store.update_status(run_id, outcome.status.value, error=outcome.error)
            return written, await self._delivery.read_decision(run_id)

        try:
            written, standing = await self._outbox.deliver(
                run_id, self._worker.epoch, what, unless_lost, patient=patient
            )
        except LeaseLost as error:
            self._settlement.lose(entry, str(error))
            return
        if entry.elsewhere:
            return
        if standing is not None:
            self._delivery.apply_ownership(entry, standing)
        if written is False:
            self._delivery.apply_row(entry, standing)
        elif entry.own is None:
            self._settlement.settled(entry, outcome.status, outcome.error)
        else:  # it was claimed a moment before
            await self._settlement.conclude(entry, outcome)

    async def forget(self, run_id: str) -> None:
        """Drops the record from memory. An unsettled run is ended: at once if it has no running task, else
        when its task ends; until then it can be cancelled like any other run."""
        entry = self._registry.entry(run_id)
        if entry is not None and not entry.settled.is_set() and not entry.elsewhere:
            outcome = Outcome(RunStatus.interrupted, DROPPED) if entry.open else None
            task = entry.record.task
            if entry.own is None and outcome is not None:
                await self._end_waiting(entry, outcome)
            elif task is not None and not task.done():
                task.add_done_callback(lambda _: self._settlement.conclude_soon(entry, outcome))
            else:
                await self._settlement.conclude(entry, outcome)
        self._registry.drop(run_id)

    # -- counters and names: best effort towards the caller

    async def update_model_name(self, run_id: str, model_name: str | None) -> None:
        record = self._registry.records.get(run_id)
        if record is None or self.is_closed(run_id):
            logger.warning("update_model_name: run %r is unknown to this worker or closed", run_id)
            return
        self._touch(run_id)
        record.model_name, record.updated_at = model_name, self._stamps.now()
        await self.best_effort(
            "model name", run_id, lambda: self._store.update_model_name(run_id, record.model_name)
        )

    def is_closed(self, run_id: str) -> bool:
        """Whether the run is lost or ended by force: then further calls come from code that did not stop. If
        only tracked work did not stop, the run ended by itself, and its counters are accepted."""
        entry = self._registry.under_way(run_id)
        if entry is None:
            return False
        if entry.elsewhere or (entry.work.forced and entry.abort is not None):
            return True
        if entry.own is None or entry.settled.is_set():
            return False
        try:
            self._worker.check(entry.own.epoch)
        except LeaseLost:
            return True
        return False

    async def best_effort(self, what: str, run_id: str, write: Callable[[], Awaitable[object]]) -> None:
        """Writes. A failure is logged, not raised; the write is retried while the run is this worker's."""

        async def unless_closed() -> None:
            if not self.is_closed(run_id):
                await write()

        entry = self._registry.under_way(run_id)
        own = None if entry is None else entry.own
        epoch = None if own is None else own.epoch
        await self._outbox.offer(run_id, epoch, f"the {what} of run {run_id!r}", unless_closed)

    async def update_completion(self, run_id: str, fields: JsonObject) -> None:
        record = self._registry.records.get(run_id)
        if self.is_closed(run_id):
            logger.warning("The completion of run %r is ignored: the run is closed", run_id)
            return
        self._touch(run_id)
        if record is not None:
            record.take(fields, COMPLETION_FIELDS)
            record.updated_at = self._stamps.now()
        await self.best_effort("completion", run_id, lambda: self._complete(run_id, record, fields))

    async def _complete(self, run_id: str, record: RunRecord | None, fields: JsonObject) -> None:
        if await self._store.update_run_completion(run_id, **fields) is False:
            await self._recreate_and_repeat(run_id, record, fields)

    async def _recreate_and_repeat(self, run_id: str, record: RunRecord | None, fields: JsonObject) -> None:
        """Handles a completion that no row accepted. If the row is missing, recreates it once; a row with
        another decision stays as it is."""
        row = await self._store.get(run_id)
        if self.is_closed(run_id):  # since: the row belongs to its new owner
            return
        status = RunStatus(
            fields.get("status") or (record.status if record is not None else RunStatus.pending)
        )
        if row is not None and row.get("status") in TERMINAL and row["status"] != status:
            logger.warning(
                "Run %r ended as %s; its completion as %s is not written", run_id, row["status"], status
            )
            return
        if record is None:
            logger.warning(
                "The completion of run %r is not written: it has no row and is unknown to this worker", run_id
            )
            return
        if await self._store.thread(record.thread_id) is None:
            logger.warning("The completion of run %r is not written: its thread was deleted", run_id)
            return
        await self._store.put(run_id, **row_of(record, status, fields.get("error")))
        if await self._store.update_run_completion(run_id, **fields) is False:
            logger.warning("The completion of run %r affected no rows after row recreation", run_id)

    async def update_progress(self, run_id: str, fields: JsonObject) -> None:
        record = self._registry.records.get(run_id)
        if record is not None:
            if record.status is not RunStatus.running:
                return
            self._touch(run_id)
            record.take(fields, PROGRESS_FIELDS)
            record.updated_at = self._stamps.now()
        await self._write_progress(run_id, fields)

    async def _write_progress(self, run_id: str, fields: JsonObject) -> None:
        try:
            await self._store.update_run_progress(run_id, **fields)
        except Exception:
            logger.warning("The progress of run %r could not be written", run_id, exc_info=True)

    def _touch(self, run_id: str) -> None:
        if (entry := self._registry.under_way(run_id)) is not None:
            entry.touch()

    def progress_soon(self, entry: Entry) -> None:
        """Writes the record's counters in a job. Calls during a write share the next one."""
        if entry not in self._progress_due:
            self._progress_due.add(entry)
            self._jobs.spawn(self._flush_progress(entry), f"progress of run {entry.record.run_id!r}")

    def model_name_soon(self, entry: Entry, model_name: str) -> None:
        """Sets the model name of the record at once and writes it in a job, one write after another: the last
        name counts."""
        entry.record.model_name = model_name
        if entry not in self._model_names_due:
            self._model_names_due.add(entry)
            self._jobs.spawn(self._flush_model_name(entry), f"model name of run {entry.record.run_id!r}")

    async def _flush_model_name(self, entry: Entry) -> None:
        await asyncio.sleep(0)
        record, written = entry.record, None
        try:
            while written != record.model_name:
                written = record.model_name
                await self.update_model_name(record.run_id, written)
        finally:
            self._model_names_due.discard(entry)

    async def _flush_progress(self, entry: Entry) -> None:
        await asyncio.sleep(0)
        self._progress_due.discard(entry)
        fields: dict[str, Json] = {name: getattr(entry.record, name) for name in PROGRESS_FIELDS}
        await self._write_progress(entry.record.run_id, fields)
