"""The newest events of followed runs, as they were published.

An event's number is that of the event before it plus 1. So a follower that has read the one before needs no
read of the log. What a message does not bring (it was lost, or its event is large) is read from the log.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager

from coordinator.arguments import check_id
from coordinator.event_log import END, Event, EventId, Page

MAX_EVENTS = 8
MAX_BYTES = 8 * 1024
"""Kept of each followed run; the oldest are dropped. Thousands of runs may be followed, and a follower that
is further behind reads a page of the log at once."""

_CONTROL = re.compile(r"[\x00-\x1f]")


def checked_event(event_id: EventId, mode: str, data: str) -> Event:
    """Raises ValueError for an invalid mode, and for data that is not ASCII or has control characters, which
    the JSON of an event never has: a line feed would start a new line in a stream of server-sent events."""
    if mode != END:
        check_id("mode", mode)
    if not data.isascii() or (not data.isprintable() and _CONTROL.search(data)):
        raise ValueError("the data of an event is ASCII without control characters")
    return Event(event_id, mode, data)


class _Newest:
    """Consecutive events of one fence."""

    __slots__ = ("events", "followers", "size")

    def __init__(self) -> None:
        self.followers = 0
        self.events: list[Event] = []
        self.size = 0

    def add(self, event: Event) -> None:
        if self.events:
            last = self.events[-1].id
            if event.id <= last:  # arrived before, or belongs to a fence that is over
                return
            if event.id != last.next:
                self.events.clear()
                self.size = 0
        self.events.append(event)
        self.size += len(event.json)
        while len(self.events) > MAX_EVENTS or (self.size > MAX_BYTES and len(self.events) > 1):
            self.size -= len(self.events.pop(0).json)

    def after(self, position: EventId, limit: int) -> tuple[Event, ...]:
        if not self.events or position.fence != self.events[0].id.fence:
            return ()
        begin = position.number + 1 - self.events[0].id.number
        return tuple(self.events[begin : begin + limit]) if begin >= 0 else ()


class PublishedEvents:
    """Shared by the notifier, which receives messages, and the event log. Runs are named as in keys."""

    def __init__(self) -> None:
        self._runs: dict[bytes, _Newest] = {}

    @contextmanager
    def followed(self, run: bytes) -> Generator[None]:
        """Events of the run are kept within the block."""
        newest = self._runs.get(run)
        if newest is None:
            newest = self._runs[run] = _Newest()
        newest.followers += 1
        try:
            yield
        finally:
            newest.followers -= 1
            if not newest.followers:
                del self._runs[run]

    def __bool__(self) -> bool:
        """Whether any run is followed."""
        return bool(self._runs)

    def add(self, run: bytes, event: Event) -> None:
        """Keeps an event of this process, if the run is followed."""
        newest = self._runs.get(run)
        if newest is not None:
            newest.add(event)

    def receive(self, run: bytes, event_id: tuple[int, int], mode: bytes, data: bytes) -> None:
        """Keeps an event of a message, if the run is followed. No effect if the event is invalid: the log is
        read then."""
        if run not in self._runs:
            return
        try:
            text = mode.decode("utf-8", "surrogatepass")
            self.add(run, checked_event(EventId(*event_id), text, data.decode("ascii")))
        except ValueError:
            return

    def after(self, run: bytes, position: EventId | None, limit: int) -> Page | None:
        """Returns the events behind a position; None if the log has to be read."""
        newest = self._runs.get(run)
        if newest is None or position is None or not (events := newest.after(position, limit)):
            return None
        return Page(events, newest.events[-1].id)
