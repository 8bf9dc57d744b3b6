"""Runs whose code is a block of the caller's own task, see `RunManager.running`.

The task of the caller becomes the task of the run for the block. It may live longer than the block, so the
block itself is tracked work: the thread is held until the block was left, and no longer (law 3).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Literal

from coordinator.context import BlockContext, Ending, current_run
from coordinator.errors import InvalidArgument, RunNotStarted
from coordinator.record import RunRecord, RunTask
from coordinator.runs.capacity import Place
from coordinator.runs.entry import Entry
from coordinator.runs.execution import Execution, Services, failure_of, take_warning
from coordinator.runs.extras import Extras
from coordinator.runs.lifecycle import Lifecycle
from coordinator.runs.registry import Registry
from coordinator.runs.settlement import Settlement
from coordinator.schemas import RunStatus
from stores.rows import Outcome

OnPendingCancel = Literal["cancel", "raise"]
"""What a cancel does to the caller's task while its run has not started."""


class Blocks:
    def __init__(
        self,
        registry: Registry,
        *,
        lifecycle: Lifecycle,
        execution: Execution,
        settlement: Settlement,
        extras: Extras,
    ) -> None:
        self._registry, self._lifecycle, self._extras = registry, lifecycle, extras
        self._execution, self._settlement = execution, settlement

    @asynccontextmanager
    async def running(
        self, record: RunRecord, on_pending_cancel: OnPendingCancel
    ) -> AsyncGenerator[BlockContext]:
        """Starts the run when it holds its thread, and settles it when the block was left. Raises
        InvalidArgument, RunNotStarted, and as `Lifecycle.start`."""
        task = _current_task()
        entry = self._entry(record, task)
        attached, record.task = record.task, task
        entry.work.supervised = task
        block: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry.work.tracks().add(block)
        place, error, ending = self._execution.place(entry), None, None
        try:
            context = await self._entered(entry, place, task, on_pending_cancel)
            token = current_run.set(context)
            try:
                yield context
            finally:
                ending = context.ending
                with suppress(ValueError):  # left by the garbage collector, in the context of another task
                    current_run.reset(token)
        except BaseException as raised:
            error = raised
            raise
        finally:
            place.release()
            try:
                if ending is not None and ending.extra:
                    await self._extras.merge(record.run_id, ending.extra)
            finally:
                entry.work.tracks().discard(block)
                block.set_result(None)
                await self._leave(entry, attached, ending, error)

    def _entry(self, record: RunRecord, task: RunTask) -> Entry:
        entry = self._registry.entry(record.run_id)
        if entry is None or record.already_admitted:
            raise InvalidArgument("record", f"run {record.run_id!r} was not admitted by this worker")
        if entry.record.task is not None and entry.record.task is not task:
            raise InvalidArgument("record", f"run {record.run_id!r} has another task already")
        if entry.started or entry.work.supervised is not None:
            raise InvalidArgument("record", f"run {record.run_id!r} was started before")
        return entry

    async def _entered(
        self, entry: Entry, place: Place, task: RunTask, on_pending_cancel: OnPendingCancel
    ) -> BlockContext:
        cancels = task.cancelling()
        try:
            return await self._started(entry, place)
        except asyncio.CancelledError:
            if on_pending_cancel == "cancel" or entry.abort is None:
                raise
            _stop_cancels(entry)
            if task.uncancel() > cancels:  # cancelled by its caller as well
                raise
        raise RunNotStarted(entry.record.run_id, entry.record.status, entry.record.error)

    async def _started(self, entry: Entry, place: Place) -> BlockContext:
        granted = not place.needed or await self._execution.granted(entry, place, movable=False)
        started = await self._lifecycle.start(entry, self._lifecycle.states) if granted else None
        hold = entry.state.hold
        if started is not None and hold is not None and entry.abort is None:
            return self._execution.context(entry, hold, started, Services, BlockContext)
        await asyncio.sleep(0)  # a cancel that was delivered is raised here
        raise RunNotStarted(entry.record.run_id, entry.record.status, entry.record.error)

    async def _leave(
        self, entry: Entry, attached: RunTask | None, ending: Ending | None, error: BaseException | None
    ) -> None:
        """Settles the run. From here on the task is its caller's alone: no decision cancels it any more."""
        _stop_cancels(entry)
        if (task := entry.record.task) is not None:
            self._settlement.overdue.over(entry, task)
        entry.record.task = None
        cancelled = isinstance(error, asyncio.CancelledError)
        outcome = _outcome_of(entry, ending, error)
        if ending is None and self._execution.begins_hand_over(entry, cancelled=cancelled):
            outcome = None
        elif ending is None and cancelled:
            take_warning(entry)
        await self._settlement.conclude(entry, outcome)
        if entry.settled.is_set():
            entry.record.task = attached


def _current_task() -> RunTask:
    task = asyncio.current_task()
    if task is None:  # pragma: no cover - a coroutine is always executed by a task
        raise RuntimeError("running() needs a task")
    return task


def _stop_cancels(entry: Entry) -> None:
    if entry.work.cancel is not None:
        entry.work.cancel.stop()


def _outcome_of(entry: Entry, ending: Ending | None, error: BaseException | None) -> Outcome | None:
    if ending is not None:
        return Outcome(ending.status, ending.error, result=ending.result)
    return Outcome(RunStatus.success) if error is None else failure_of(entry, error)
