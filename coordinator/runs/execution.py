"""Launches a run: its code as a task of this worker, from the start to the outcome."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Protocol

from coordinator.assistants.ports import Assistant
from coordinator.assistants.values import StoredValues
from coordinator.context import RunContext, current_run
from coordinator.errors import InvalidArgument, LeaseLost, StaleFence
from coordinator.record import RunRecord, RunTask
from coordinator.runs.entry import Entry
from coordinator.runs.exits import RunExited
from coordinator.runs.incarnation import Incarnation
from coordinator.runs.lifecycle import Lifecycle
from coordinator.runs.outcomes import success_of, text_of, unreadable
from coordinator.runs.registry import Registry
from coordinator.runs.settlement import Settlement
from coordinator.runs.states import Hold, Waiting
from coordinator.schemas import Abort, Json, Outcome, RunStatus
from coordinator.telemetry import Telemetry
from coordinator.telemetry.events import RunEmitted
from stores.event_loop import HomeLoop
from stores.json_faults import json_fault
from stores.rows import Outcome as StoredOutcome
from stores.rows import Ownership, Started
from stores.tasks import begin_soon

logger = logging.getLogger(__name__)


class Emitting(Protocol):
    """The writer of events."""

    def encode(self, mode: str, data: Json, *, any_size: bool = False) -> str: ...
    async def append(self, own: Ownership, mode: str, text: str) -> None: ...
    def close(self, own: Ownership) -> None: ...


class Services:
    """The services of the worker for the context of one run."""

    def __init__(self, execution: Execution, entry: Entry, own: Ownership) -> None:
        self._execution, self._entry, self._own = execution, entry, own
        self._shown: str | None = None
        self._saved_last = False
        execution.values.opened(own.thread_id, own.fence)

    def check(self) -> None:
        self._execution.worker.check(self._own.epoch)

    def abort(self) -> Abort | None:
        return self._entry.abort or self._entry.work.warned

    async def emit(self, mode: str, data: Json) -> None:
        await self._append(mode, data, self._execution.events.encode(mode, data))

    async def show(self, values: Json, *, if_changed: bool = False) -> None:
        text = self._execution.events.encode("values", values, any_size=True)
        if if_changed and text == self._shown:
            return
        self._shown = text
        await self._append("values", values, text)

    async def _append(self, mode: str, data: Json, text: str) -> None:
        """Appends an event. All events of the run pass through this method."""
        self._execution.home.check()
        self._entry.touch()
        record = self._entry.record
        self._execution.telemetry.emit(RunEmitted(record.run_id, record.thread_id, mode, data))
        await self._execution.events.append(self._own, mode, text)

    def close(self) -> None:
        self._execution.values.close(self._own.thread_id, self._own.fence)
        with suppress(LeaseLost):  # fenced: nothing is written any more
            self.check()
            self._execution.events.close(self._own)

    async def save(self, values: Json) -> None:
        self._execution.home.check()
        self._entry.touch()
        last = self._entry.abort is not None
        if last and self._saved_last:
            raise StaleFence(self._own.thread_id, self._own.fence)
        try:
            await self._execution.values.save(self._own, values, last=last)
        except StaleFence:
            if not last:
                await self._refresh()
            raise
        except (TypeError, ValueError) as error:
            if (fault := json_fault("values", values)) is None:
                raise
            raise InvalidArgument("values", f"must be JSON: {fault}") from error
        self._saved_last = last

    async def _refresh(self) -> None:
        """After a refused save: applies the run's row. If the run was decided a moment ago, CancelledError is
        raised here, and the code may save for the last time."""
        await self._execution.lifecycle.refresh_from_store(self._entry)
        if self._entry.abort is not None:
            await asyncio.sleep(0)

    def progress(self, model_name: str | None) -> None:
        self._execution.home.check()
        self._entry.touch()
        self._execution.lifecycle.progress_soon(self._entry)
        if model_name is not None:
            self._execution.lifecycle.model_name_soon(self._entry, model_name)


class OperationServices(Services):
    """Services for an operation, which has no watchers: events are dropped."""

    async def emit(self, mode: str, data: Json) -> None:
        del mode, data
        self._entry.touch()

    async def show(self, values: Json, *, if_changed: bool = False) -> None:
        del values, if_changed
        self._entry.touch()

    def close(self) -> None:
        self._execution.values.close(self._own.thread_id, self._own.fence)


class Execution:
    def __init__(
        self,
        registry: Registry,
        *,
        lifecycle: Lifecycle,
        settlement: Settlement,
        values: StoredValues,
        worker: Incarnation,
        events: Emitting,
        telemetry: Telemetry,
        home: HomeLoop,
    ) -> None:
        self.home = home
        self._registry, self._settlement, self.events = registry, settlement, events
        self.lifecycle, self.values, self.worker, self.telemetry = lifecycle, values, worker, telemetry

    def launch(self, record: RunRecord, assistant: Assistant) -> RunTask:
        """Creates the run's task, which waits until the run holds its thread. Raises InvalidArgument if the
        run belongs to another worker or has a task already."""
        entry = self._registry.entry(record.run_id)
        if entry is None or record.already_admitted:
            raise InvalidArgument("record", f"run {record.run_id!r} was not admitted by this worker")
        if entry.record.task is not None:
            raise InvalidArgument("record", f"run {record.run_id!r} has a task already")
        if isinstance(entry.state, Waiting):
            entry.state.start_ref = self.values.start_ref(assistant.states)
        task = begin_soon(self._attempt(entry, assistant))
        entry.record.task = entry.work.supervised = entry.work.launched = task
        task.add_done_callback(lambda done: self._task_over(entry, done))
        return task

    async def _attempt(self, entry: Entry, assistant: Assistant) -> Outcome | None:
        started = await self.lifecycle.start(entry, assistant.states)
        hold = entry.state.hold
        if started is None or hold is None:
            return None
        context = self.context(entry, hold, started, Services)
        token = current_run.set(context)
        try:
            return await assistant.run(context, context.request)
        except SystemExit as error:
            raise RunExited(error.code) from error
        finally:
            # The record keeps the task, and the task its variables. A task that is discarded with its loop
            # ends here in the garbage collector, with the variables of another task.
            with suppress(ValueError):
                current_run.reset(token)

    def context(self, entry: Entry, hold: Hold, started: Started, services: type[Services]) -> RunContext:
        """Creates the context for the code of a run that has started, or of an operation."""
        hold.context = RunContext(
            run=entry.record,
            fence=hold.own.fence,
            attempt=1,
            values=started.values,
            drain_event=self.worker.drain_event,
            services=services(self, entry, hold.own),
            tracked=entry.work.tracks(),
        )
        return hold.context

    def _task_over(self, entry: Entry, task: RunTask) -> None:
        outcome = self._bounded(outcome_of(entry, task))
        if not entry.settled.is_set():
            warned = entry.work.warned
            if task.cancelled() and entry.own is not None and entry.abort is None and warned is not None:
                entry.set_unwritten(warned)  # it stopped because of the warning, which becomes its decision
            self._settlement.conclude_soon(entry, outcome)

    def _bounded(self, outcome: StoredOutcome | None) -> StoredOutcome | None:
        """Returns an error in place of an outcome whose values are larger than a thread may hold."""
        try:
            self.values.check_size(None if outcome is None else outcome.values)
        except InvalidArgument as error:
            return StoredOutcome(RunStatus.error, text_of(error))
        return outcome


def outcome_of(entry: Entry, task: asyncio.Task[Outcome | None]) -> StoredOutcome | None:
    """Returns the outcome of the task for the store; None if the run was decided otherwise. Raises nothing:
    a run whose outcome cannot be read ends as an error with that reason."""
    record = entry.record
    if task.cancelled():
        return None if entry.abort is not None else StoredOutcome(RunStatus.interrupted)
    error = task.exception()
    if isinstance(error, (StaleFence, LeaseLost)) or (error is not None and entry.abort is not None):
        return None if entry.abort is not None else StoredOutcome(RunStatus.error, text_of(error))
    if error is not None:
        logger.warning("run %r failed", record.run_id, exc_info=error, extra=_log_fields(record))
        return StoredOutcome(RunStatus.error, text_of(error))
    if (reported := task.result()) is None:
        return None
    try:
        return success_of(reported)
    except Exception as failure:
        logger.exception("the outcome of run %r cannot be read", record.run_id, extra=_log_fields(record))
        return unreadable(failure)


def _log_fields(record: RunRecord) -> dict[str, str]:
    """Returns the fields of structured log lines."""
    return {"run_id": record.run_id, "thread_id": record.thread_id}
