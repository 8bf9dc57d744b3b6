"""The events that wait to be written into the store: in order for each run, bounded over all runs."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from coordinator.event_log import BEGINNING, END, Entry, EventId
from stores.events import EventsKept, Kept, NewEvents

MAX_BYTES = 32 << 20
"""Bytes of all waiting events."""
BATCH_BYTES = 1 << 20
BATCH_EVENTS = 2000
"""Limits of one transaction. It takes about 10 ms on SQLite, which a cancel may have to wait."""

_OVERHEAD = 400
"""Bytes of an event beside its JSON."""


class Written(NamedTuple):
    """Events of one run and fence that are being written."""

    thread_id: str
    events: NewEvents
    top: EventId


class _Run:
    """A run of this worker. `top`: the newest entry that was added. `refused`: the newest fence that the
    store has refused. `closed`: its last entry was added, so it is removed from the backlog once that is
    written."""

    __slots__ = ("closed", "due", "floor", "followed", "refused", "thread_id", "top", "waiting")

    def __init__(self, thread_id: str) -> None:
        self.thread_id = thread_id
        self.waiting: list[Entry] = []
        self.top, self.floor, self.refused = BEGINNING, BEGINNING, -1
        self.due = float("inf")
        self.followed = self.closed = False


class Backlog:
    """Truthy while an event waits or is being written. `due`: when (loop time) the first event has to be
    written. `has_room` is cleared when the backlog is full, and set again when half of it is written."""

    def __init__(self) -> None:
        self._runs: dict[str, _Run] = {}
        self._size = 0
        self.due = float("inf")
        self._waiting: dict[str, _Run] = {}
        self.has_room = asyncio.Event()
        self.has_room.set()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    @property
    def is_full(self) -> bool:
        return not self.has_room.is_set()

    def waits(self, run_id: str) -> bool:
        """Whether an event of the run waits or is being written."""
        return run_id in self._waiting

    def is_refused(self, run_id: str, fence: int) -> bool:
        run = self._runs.get(run_id)
        return run is not None and fence <= run.refused

    def is_followed(self, run_id: str) -> bool:
        run = self._runs.get(run_id)
        return run is not None and run.followed

    def readmit(self, run_id: str, fence: int) -> None:
        """Accepts `fence` again, because the run's row has it."""
        if (run := self._runs.get(run_id)) is not None:
            run.refused = min(run.refused, fence - 1)
            if run.top.fence > fence:
                run.top = BEGINNING

    @property
    def is_crowded(self) -> bool:
        return self._size > MAX_BYTES // 2

    def add(self, thread_id: str, run_id: str, entry: Entry, *, at: float, always: bool = False) -> bool:
        """Adds an entry that has to be written by `at` (loop time). Returns False if the backlog is full,
        unless `always`. An entry that was added before is ignored."""
        run = self._runs.get(run_id)
        if run is None:
            run = self._runs[run_id] = _Run(thread_id)
        if entry.id <= run.top:
            return True
        if self.is_full and not always:
            return False
        run.waiting.append(entry)
        run.top, run.due, run.closed = entry.id, min(run.due, at), entry.mode == END
        self.due = min(self.due, run.due)
        self._waiting[run_id] = run
        self._grow(_size(entry))
        return True

    def take(self, until: float) -> list[Written]:
        """Returns the entries that are due at `until` (loop time), ordered by due time, as many as fit one
        transaction. They stay in the backlog until `written`; `failed` makes them due again."""
        batch, events, size = list[Written](), 0, 0
        due = sorted((run.due, run_id) for run_id, run in self._waiting.items() if run.due <= until)
        for _, run_id in due:
            run, entries = self._waiting[run_id], list[Entry]()
            for entry in run.waiting:
                if events and (events >= BATCH_EVENTS or size >= BATCH_BYTES):
                    break
                if entries and entry.id.fence != entries[0].id.fence:
                    break
                entries.append(entry)
                events, size = events + 1, size + _size(entry)
            if entries:
                batch.append(_written(run_id, run, entries))
                run.due = float("inf") if len(entries) == len(run.waiting) else run.due
        self.due = min((run.due for run in self._waiting.values()), default=float("inf"))
        return batch

    def failed(self, writing: list[Written], at: float) -> None:
        """Makes the entries of a failed transaction due again at `at` (loop time)."""
        for written in writing:
            if (run := self._waiting.get(written.events.run_id)) is not None:
                run.due = min(run.due, at)
                self.due = min(self.due, at)

    def written(self, written: Written, answer: EventsKept) -> None:
        """Removes entries that the store has stored or refused."""
        run = self._runs.get(written.events.run_id)
        if run is None:  # the run was removed meanwhile
            return
        fence = written.events.fence
        count = len(written.events.entries)
        if answer.kept is Kept.done:
            run.floor = max(run.floor, EventId(*written.events.floor))
        else:
            run.refused = max(run.refused, fence)
            count = sum(1 for entry in run.waiting if entry.id.fence <= fence)
        self._grow(-sum(map(_size, run.waiting[:count])))
        del run.waiting[:count]
        run.followed = answer.followed
        self._remove_if_done(written.events.run_id, run)

    def forget(self, run_id: str) -> None:
        """The run emits no more events. Waiting ones are still written."""
        if (run := self._runs.get(run_id)) is not None:
            run.closed = True
            if not run.waiting:
                del self._runs[run_id]

    def discard(self, run_id: str) -> None:
        """Drops the run and its waiting events."""
        if (run := self._runs.pop(run_id, None)) is not None:
            self._waiting.pop(run_id, None)
            self._grow(-sum(map(_size, run.waiting)))

    def _remove_if_done(self, run_id: str, run: _Run) -> None:
        if run.waiting:
            return
        self._waiting.pop(run_id, None)
        if run.closed:
            del self._runs[run_id]

    def _grow(self, by: int) -> None:
        self._size += by
        if self._size > MAX_BYTES:
            self.has_room.clear()
        elif self._size < MAX_BYTES // 2:
            self.has_room.set()


def _written(run_id: str, run: _Run, entries: list[Entry]) -> Written:
    floor, top = entries[-1].floor, entries[-1].id
    moved = floor if floor > max(run.floor, BEGINNING) else BEGINNING
    stored = tuple((entry.id.number, entry.mode, entry.json) for entry in entries)
    return Written(run.thread_id, NewEvents(run_id, top.fence, stored, (moved.fence, moved.number)), top)


def _size(entry: Entry) -> int:
    return len(entry.json) + _OVERHEAD
