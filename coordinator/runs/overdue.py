"""Runs that were settled by force and whose work still executes. Their threads are free; the work occupies a
place or a thread of this worker until it ends."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import NamedTuple

from coordinator.record import RunRecord
from coordinator.runs.entry import Entry
from coordinator.telemetry import Telemetry
from coordinator.telemetry.events import RunStopped
from stores.tasks import AnyFuture


class Unstopped(NamedTuple):
    """`since`: when the work was to stop (s, clock of the loop)."""

    record: RunRecord
    since: float
    work: set[AnyFuture]


class Overdue:
    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._runs: dict[Entry, Unstopped] = {}
        """A run that this worker has taken over again has a further entry."""

    def add(self, entry: Entry) -> None:
        """Adds a run that was given up. It is removed when its work has ended."""
        work, force, task = set(entry.work.tracked or ()), entry.work.force, entry.record.task
        if task is not None and not task.done():
            work.add(task)
        now = asyncio.get_running_loop().time()
        self._runs[entry] = Unstopped(entry.record, now if force is None else force.since, work)
        for future in tuple(work):
            future.add_done_callback(partial(self.over, entry))

    def over(self, entry: Entry, work: AnyFuture) -> None:
        """Removes a part of the run's work: it has ended, or is its caller's alone from here on. No effect if
        the run is not overdue."""
        if (run := self._runs.get(entry)) is None:
            return
        run.work.discard(work)
        if not run.work:
            del self._runs[entry]
            after = asyncio.get_running_loop().time() - run.since
            self._telemetry.emit(RunStopped(run.record.run_id, run.record.thread_id, after))

    @property
    def sentences(self) -> tuple[str, ...]:
        """A sentence for each run."""
        return tuple(_sentence(run) for run in self._runs.values())


def _sentence(run: Unstopped) -> str:
    record, seconds = run.record, asyncio.get_running_loop().time() - run.since
    return (
        f"run {record.run_id!r} of assistant {record.assistant_id!r} on thread {record.thread_id!r} has not"
        f" stopped {seconds:.0f} s after its cancel: its work occupies its place of this worker until it ends"
    )
