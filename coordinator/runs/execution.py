"""Launches a run: its code as a task of this worker, from the start to the outcome."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from functools import partial
from typing import Protocol, TypeVar

from coordinator.arguments import check_instance
from coordinator.assistants.ports import Assistant
from coordinator.assistants.references import copied, referenced
from coordinator.assistants.values import StoredValues
from coordinator.context import RunContext, current_run
from coordinator.errors import InvalidArgument, LeaseLost, StaleFence
from coordinator.record import RunRecord, RunTask
from coordinator.runs.capacity import Capacity, Place
from coordinator.runs.entry import Entry
from coordinator.runs.exits import containing
from coordinator.runs.incarnation import Incarnation
from coordinator.runs.lifecycle import Lifecycle
from coordinator.runs.message_blocks import MessageBlocks
from coordinator.runs.outcomes import Copies, success_of, text_of, unreadable
from coordinator.runs.registry import Registry
from coordinator.runs.settlement import Settlement
from coordinator.runs.states import Hold, Holding, Waiting
from coordinator.runs.timeouts import Timeouts
from coordinator.schemas import PROTOCOL, Abort, Cause, Json, Outcome, RunStatus, User
from coordinator.telemetry import Telemetry
from coordinator.telemetry.events import RunEmitted
from stores.event_loop import HomeLoop
from stores.json_faults import json_fault
from stores.rows import Outcome as StoredOutcome
from stores.rows import Ownership, Started
from stores.tasks import begin_soon

logger = logging.getLogger(__name__)

AnyContext = TypeVar("AnyContext", bound=RunContext)
MESSAGES = "messages"
"""The mode of messages. Their form depends on the request of the run."""
SIGNS_WRITTEN_EVERY = 5.0
"""s. Signs of life that are no save are written to the row of their run at this interval."""


class Emitting(Protocol):
    """The writer of events."""

    def encode(self, mode: str, data: Json) -> str: ...
    def encoded(self, mode: str, data: bytes) -> str: ...
    def inherit(self, own: Ownership) -> None: ...
    async def append(self, own: Ownership, mode: str, text: str) -> None: ...
    def close(self, own: Ownership, *, if_empty: bool = False) -> None: ...


class Services:
    """The services of the worker for the context of one run."""

    def __init__(self, execution: Execution, entry: Entry, own: Ownership) -> None:
        self._execution, self._entry, self._own = execution, entry, own
        self._shown: str | None = None
        self._saved_last = False
        self._sign_written_at = entry.work.clocks.monotonic()
        modes = entry.record.kwargs.get("stream_mode") or ()
        self._blocks = MessageBlocks() if PROTOCOL in modes else None
        execution.values.permit(own.thread_id, own.fence)
        if entry.attempt > 1:
            execution.events.inherit(own)

    def check(self) -> None:
        self._execution.worker.check(self._own.epoch)

    def abort(self) -> Abort | None:
        return self._entry.abort or self._entry.work.warned

    async def emit(self, mode: str, data: Json) -> None:
        events = (data,) if self._blocks is None or mode != MESSAGES else self._blocks.events_of(data)
        for event in events:
            await self._append(mode, self._execution.events.encode(mode, event))

    async def end_messages(self) -> None:
        """Called when the code of the run has returned."""
        for event in () if self._blocks is None else self._blocks.ended():
            await self._append(MESSAGES, self._execution.events.encode(MESSAGES, event))

    async def emit_encoded(self, mode: str, data: bytes) -> None:
        await self._append(mode, self._execution.events.encoded(mode, data))

    async def show(self, values: Json, *, if_changed: bool = False) -> None:
        text = self._execution.events.encode("values", values)
        if if_changed and text == self._shown:
            return
        self._shown = text
        await self._append("values", text)

    async def _append(self, mode: str, text: str) -> None:
        """Appends an event. All events of the run pass through this method."""
        self._execution.home.check()
        self._entry.touch()
        record = self._entry.record
        self._execution.telemetry.emit(RunEmitted(record.run_id, record.thread_id, mode, text))
        await self._execution.events.append(self._own, mode, text)

    def close(self) -> None:
        self._execution.values.close(self._own.thread_id, self._own.fence)
        with suppress(LeaseLost):  # fenced: nothing is written any more
            self.check()
            # Of a further attempt in any case: its last entry proves that no attempt has an entry behind it.
            self._execution.events.close(self._own, if_empty=self._entry.attempt > 1)

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

    def touch(self) -> None:
        self._entry.touch()
        active_at = self._entry.work.active_at
        if active_at - self._sign_written_at >= SIGNS_WRITTEN_EVERY:
            self._sign_written_at = active_at
            self._execution.lifecycle.progress_soon(self._entry)

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

    async def emit_encoded(self, mode: str, data: bytes) -> None:
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
        timeouts: Timeouts,
        capacity: Capacity,
        values: StoredValues,
        worker: Incarnation,
        events: Emitting,
        telemetry: Telemetry,
        home: HomeLoop,
        state_copy_bytes: int,
    ) -> None:
        self.home, self._state_copy_bytes = home, state_copy_bytes
        self._registry, self._settlement, self.events = registry, settlement, events
        self._timeouts, self._capacity = timeouts, capacity
        self.lifecycle, self.values, self.worker, self.telemetry = lifecycle, values, worker, telemetry

    def launch(self, record: RunRecord, assistant: Assistant, user: User | None = None) -> RunTask:
        """Creates the run's task, which waits until the run holds its thread. Raises InvalidArgument if the
        run belongs to another worker or user, or has a task already."""
        if user is not None and check_instance("user", user, User).user_id != record.user_id:
            raise InvalidArgument("user", "must be the user of the run")
        entry = self._registry.entry(record.run_id)
        if entry is None and record.store_only:
            raise InvalidArgument("record", f"run {record.run_id!r} is executed by another worker")
        if entry is None or record.already_admitted:
            raise InvalidArgument("record", f"run {record.run_id!r} was not admitted by this worker")
        if entry.record.task is not None:
            raise InvalidArgument("record", f"run {record.run_id!r} has a task already")
        if isinstance(entry.state, Waiting) and not self._capacity.limited:
            entry.state.start_ref = self.values.start_ref(assistant.states)
        entry.record.user = user or entry.record.user
        task = begin_soon(self._attempt(entry, assistant))
        entry.record.task = entry.work.supervised = entry.work.launched = task
        task.add_done_callback(lambda done: self._task_over(entry, assistant, done))
        return task

    async def _attempt(self, entry: Entry, assistant: Assistant) -> Outcome | None:
        if (hold := entry.state.hold) is not None and hold.pause and await self._drains_within(hold.pause):
            return Outcome(drained=True)
        place = self.place(entry)
        if place.needed and not await self.granted(entry, place, movable=entry.work.continuation is not None):
            return None if entry.abort is not None else Outcome(None, drained=True)
        try:
            return await self._run(entry, assistant)
        finally:
            place.release()

    def place(self, entry: Entry) -> Place:
        """Returns the place of the run among those that execute here; it is not acquired yet."""
        return self._capacity.place(entry.record)

    async def granted(self, entry: Entry, place: Place, *, movable: bool) -> bool:
        """Waits for the run's turn and for a place. Returns False if its queue limit has passed first, which
        ends the run, or if this worker drains and the run is `movable`: another one can execute it."""
        await self.lifecycle.turn(entry)
        if not isinstance(entry.state, Holding):
            return True  # `start` refuses it
        try:
            async with asyncio.timeout(entry.limits.queue):
                return await place.acquire(movable=movable)
        except TimeoutError:
            await self._timeouts.end(entry.record.run_id, Cause.queue_timeout, without_place=True)
            return False
        return True

    async def _run(self, entry: Entry, assistant: Assistant) -> Outcome | None:
        started = await self.lifecycle.start(entry, assistant.states)
        hold = entry.state.hold
        if started is None or hold is None:
            return None
        context = self.context(entry, hold, started, Services)
        hold.assistant = assistant
        token = current_run.set(context)
        try:
            with containing():
                outcome = await assistant.run(context, context.request)
            await context.services.end_messages()
            return outcome
        finally:
            # The record keeps the task, and the task its variables. A task that is discarded with its loop
            # ends here in the garbage collector, with the variables of another task.
            with suppress(ValueError):
                current_run.reset(token)

    async def _drains_within(self, seconds: float) -> bool:
        """Waits. Returns True at once if this worker drains."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.worker.drain_event.wait()
        return self.worker.drain_event.is_set()

    def context(
        self,
        entry: Entry,
        hold: Hold,
        started: Started,
        services: type[Services],
        kind: type[AnyContext] = RunContext,
    ) -> AnyContext:
        """Creates the context for the code of a run that has started, or of an operation."""
        hold.context = context = kind(
            run=entry.record,
            user=entry.record.user,
            fence=hold.own.fence,
            attempt=hold.attempt,
            values=None if referenced(started.values) else started.values,
            drain_event=self.worker.drain_event,
            services=services(self, entry, hold.own),
            tracked=entry.work.tracks(),
            opened=hold.opened,
            portable=entry.work.continuation is not None,
        )
        return context

    def _task_over(self, entry: Entry, assistant: Assistant, task: RunTask) -> None:
        drained = not task.cancelled() and task.exception() is None and _drained(task.result())
        if self.begins_hand_over(entry, cancelled=task.cancelled(), drained=drained):
            self._settlement.conclude_soon(entry, None)
            return
        copies = partial(copied, assistant, limit=self._state_copy_bytes)
        outcome = self._bounded(outcome_of(entry, task, copies))
        if not entry.settled.is_set():
            if task.cancelled():
                take_warning(entry)
            self._settlement.conclude_soon(entry, outcome)

    def begins_hand_over(self, entry: Entry, *, cancelled: bool, drained: bool = False) -> bool:
        """Returns whether another worker is to continue a portable run when this one drains: its code has
        stopped at a point from which it can be continued (`drained`), or did not return within the grace and
        has attempts left."""
        continuation, own = entry.work.continuation, entry.own
        if continuation is None or not self.worker.drain_event.is_set():
            return False
        if own is None or not own.fence or entry.abort is not None or not entry.open:
            return False
        warned = cancelled and entry.may_continue and entry.work.warned is not None
        continuation.begins = continuation.begins or warned or drained
        return warned or drained

    def _bounded(self, outcome: StoredOutcome | None) -> StoredOutcome | None:
        """Returns an error in place of an outcome whose values are larger than a thread may hold."""
        try:
            self.values.check_size(None if outcome is None else outcome.values)
        except InvalidArgument as error:
            return StoredOutcome(RunStatus.error, text_of(error))
        return outcome


def _drained(reported: object) -> bool:
    return isinstance(reported, Outcome) and reported.drained is True


def take_warning(entry: Entry) -> None:
    """After the task of an undecided run was cancelled: a warning that cancelled it becomes its decision."""
    warned = entry.work.warned
    if entry.own is not None and entry.abort is None and warned is not None:
        entry.set_unwritten(warned)


def outcome_of(entry: Entry, task: asyncio.Task[Outcome | None], copies: Copies) -> StoredOutcome | None:
    """Returns the outcome of the task for the store; None if the run was decided otherwise. `copies`: see
    `success_of`. Raises nothing: a run whose outcome cannot be read ends as an error with that reason."""
    record = entry.record
    error = asyncio.CancelledError() if task.cancelled() else task.exception()
    if error is not None:
        if not isinstance(error, (asyncio.CancelledError, StaleFence, LeaseLost)) and entry.abort is None:
            logger.warning("run %r failed", record.run_id, exc_info=error, extra=_log_fields(record))
        return failure_of(entry, error)
    if (reported := task.result()) is None:
        return None
    try:
        return success_of(reported, copies)
    except Exception as failure:
        logger.exception("the outcome of run %r cannot be read", record.run_id, extra=_log_fields(record))
        return unreadable(failure)


def failure_of(entry: Entry, error: BaseException) -> StoredOutcome | None:
    """Returns the outcome of a run whose code has raised `error`; None if the run was decided otherwise."""
    if entry.abort is not None:
        return None
    if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
        return StoredOutcome(RunStatus.interrupted)
    return StoredOutcome(RunStatus.error, text_of(error))


def _log_fields(record: RunRecord) -> dict[str, str]:
    """Returns the fields of structured log lines."""
    return {"run_id": record.run_id, "thread_id": record.thread_id}
