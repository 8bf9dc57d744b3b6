"""The event log in the memory of one process. Other workers cannot read it."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from coordinator.event_log import Appended, Entry, Event, EventId, Page

MEMORY = 256 << 20
"""Bytes of all logs of a process. The log that was appended to least recently is evicted first."""

_OVERHEAD = 400
"""Bytes of an event beside its JSON (tracemalloc: 380)."""


class _Log:
    """Uses lists, because readers search for ids by bisection. Trimming the first of 10,000 events takes 2
    µs."""

    __slots__ = ("events", "ids", "size", "whole")

    def __init__(self, *, whole: bool) -> None:
        self.whole = whole
        self.events: list[Event] = []
        self.ids: list[EventId] = []
        self.size = 0

    def add(self, event: Event, floor: EventId) -> int:
        """Appends an event, trims those below `floor`, and returns the change of the size (bytes)."""
        before = self.size
        self.events.append(event)
        self.ids.append(event.id)
        self.size += len(event.json) + _OVERHEAD
        if old := bisect_left(self.ids, floor):
            self.size -= sum(len(event.json) + _OVERHEAD for event in self.events[:old])
            del self.events[:old], self.ids[:old]
        return self.size - before


class LocalEventLog:
    """A log exists until its run is evicted from memory (`forget`), or other logs need the memory."""

    def __init__(self, memory: int = MEMORY) -> None:
        self._logs: OrderedDict[str, _Log] = OrderedDict()
        self._parts = set[str]()
        """Runs that have emitted nothing here yet, and may have emitted something on other workers."""
        self._memory, self._size = memory, 0

    away = False

    async def returned(self) -> None:
        """Returns at once, because this log is never away."""

    async def append(self, thread_id: str, run_id: str, entry: Entry) -> Appended:
        return self.add(run_id, entry)

    def add(self, run_id: str, entry: Entry) -> Appended:
        """As `append`."""
        log = self._logs.get(run_id)
        if log is None:
            whole = entry.id.number == 1 and run_id not in self._parts
            self._parts.discard(run_id)
            log = self._logs[run_id] = _Log(whole=whole)
        elif log.ids[-1] >= entry.id:
            return _refusal(log, entry.id)
        self._logs.move_to_end(run_id)
        self._size += log.add(Event(entry.id, entry.mode, entry.json), entry.floor)
        while self._size > self._memory and len(self._logs) > 1:
            self._drop(next(iter(self._logs)))
        return Appended.done

    def reclaim(self, thread_id: str, run_id: str, fence: int) -> None:
        log = self._logs.get(run_id)
        if log is not None and log.ids[-1].fence > fence:
            self._drop(run_id)

    def close(self, thread_id: str, run_id: str, entry: Entry) -> None:
        self.add(run_id, entry)

    async def flushed(self, thread_id: str, run_id: str) -> None:
        """Returns at once: there is one worker."""

    async def read(self, thread_id: str, run_id: str, after: EventId | None, limit: int) -> Page | None:
        return self.peek(run_id, after, limit)

    def peek(self, run_id: str, after: EventId | None, limit: int) -> Page:
        log = self._logs.get(run_id)
        if log is None:
            return Page((), None)
        start = 0 if after is None else bisect_right(log.ids, after)
        return Page(tuple(log.events[start : start + limit]), log.ids[-1])

    def has(self, run_id: str) -> bool:
        return run_id in self._logs

    def begin_part(self, run_id: str) -> None:
        """Drops the log. What is appended from here on is a part of a log that other workers have begun."""
        self._drop(run_id)
        self._parts.add(run_id)

    def covers(self, run_id: str, after: EventId | None) -> bool:
        """Returns whether the log has all retained events after this id."""
        if (log := self._logs.get(run_id)) is None:
            return False
        return log.whole or (after is not None and after.next >= log.ids[0])

    @asynccontextmanager
    async def followed(self, thread_id: str, run_id: str) -> AsyncGenerator[None]:
        yield

    async def aclose(self) -> None:
        """No effect: there is nothing to write."""

    def forget(self, run_id: str) -> None:
        self._drop(run_id)
        self._parts.discard(run_id)

    def _drop(self, run_id: str) -> None:
        log = self._logs.pop(run_id, None)
        if log is not None:
            self._size -= log.size

    def remove(self, thread_id: str, run_id: str) -> None:
        del thread_id
        self._drop(run_id)


def _refusal(log: _Log, event_id: EventId) -> Appended:
    if log.ids[-1].fence > event_id.fence:
        return Appended.stale
    index = bisect_left(log.ids, event_id)
    return Appended.done if log.ids[index] == event_id else Appended.late
