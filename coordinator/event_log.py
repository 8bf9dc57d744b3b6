"""The event log port: what a run told its watchers, in order, kept for a while.

An event's id is `<fence>-<number>`. The owner counts 1, 2, 3 … for each run and fence and never skips, so ids
only grow, a holder with an older fence is refused by the log itself, an append whose answer was lost is
recognised when it is repeated, and a reader sees from the numbers alone whether anything is missing.

The log speeds watchers up and decides nothing (law 1): it may be trimmed, expired, flushed or away. How a run
ended is read from its row. Adapters: `event_logs.local` for one process, `event_logs.redis` and
`event_logs.store` for many.
"""

from __future__ import annotations

import json
import re
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol, Self

from coordinator.schemas import Cause, Json, RunStatus

END = ""
"""The mode of the entry that closes a log. No event has it."""

_ID = re.compile(r"([0-9]{1,19})-([0-9]{1,19})", re.ASCII)
_LARGEST = 2**63 - 1  # half of what a Redis stream id takes: its successor is an id as well


class EventId(NamedTuple):
    """Ordered as in the log."""

    fence: int
    number: int

    def __str__(self) -> str:
        return f"{self.fence}-{self.number}"

    @property
    def next(self) -> EventId:
        return EventId(self.fence, self.number + 1)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError: ids come back from clients, so they may be anything."""
        found = _ID.fullmatch(text)
        if found is None:
            raise ValueError("must be <fence>-<number>")
        fence, number = int(found[1]), int(found[2])
        if max(fence, number) >= _LARGEST:
            raise ValueError("is greater than any id")
        return cls(fence, number)


@dataclass(frozen=True, slots=True)
class Event:
    """What a run's code emitted: `mode` is `custom`, `values`, `updates|<subgraph>` …, `json` its data."""

    id: EventId
    mode: str
    json: str

    @property
    def data(self) -> Json:
        """Decoded anew by each call; who passes events on wants `json`."""
        return json.loads(self.json)


@dataclass(frozen=True, slots=True)
class Gap:
    """Events after `after` and before `before` existed, or may have, and are not to be had (any more).

    `after` None = from the beginning; `before` None = up to where the log goes on, or to its end.
    """

    after: str | None
    before: str | None


@dataclass(frozen=True, slots=True)
class End:
    """The run has settled, as its row says. Always the last thing that a follower is told.

    `last_id` is the newest event that it was told of (or began after). `complete`: nothing was missed since
    it began. False also where nobody can prove it: the owner died, or no log is left to look at.
    """

    run_id: str
    status: RunStatus
    error: str | None
    cause: Cause | None
    last_id: str | None
    complete: bool


BEGINNING = EventId(0, 0)
"""Before every id."""


TAIL = EventId(_LARGEST, _LARGEST)
"""After every id: only what comes from now on."""


class Appended(StrEnum):
    done = "done"  # also: it was there already, a repeated append
    late = "late"  # a later number was appended before; this one stays missing
    stale = "stale"  # the log knows a newer fence of the thread; only the store knows whether that is true
    lost = "lost"  # no answer within the budget: appended or not, nobody knows
    refused = "refused"  # an error that concerns this append: it will not be taken later either


class Entry(NamedTuple):
    """What is appended. `floor` is the oldest id that is still to be kept; older ones may go."""

    id: EventId
    mode: str
    json: str
    floor: EventId


class Page(NamedTuple):
    """Consecutive entries of a log, the closing one (mode `END`) included. `top` is the newest id of the log
    where that is known (always where `events` is empty); None there = there is no log."""

    events: tuple[Event, ...]
    top: EventId | None


class EventLog(Protocol):
    """No method raises because the log is away."""

    @property
    def away(self) -> bool:
        """Appends and reads are answered at once, without the log."""
        ...

    async def returned(self) -> None:
        """Return when the log is not away; at once if it is not away now, or if it is closed."""
        ...

    async def append(self, thread_id: str, run_id: str, entry: Entry) -> Appended:
        """Add an entry, unless a newer fence is known, and hint at it to followers on other workers.

        One attempt, bounded by the adapter's budget. The same id again is harmless. Renews the log's time to
        live.
        """
        ...

    def reclaim(self, thread_id: str, run_id: str, fence: int) -> None:
        """The store has confirmed that `fence` holds the thread: discard what newer fences have left in the
        slot and in this run's log. Does nothing where there is no newer fence. Fire and forget, in order with
        `append`."""
        ...

    def close(self, thread_id: str, run_id: str, entry: Entry) -> None:
        """Append the last entry of a fence (mode `END`). Fire and forget; before the run's row is settled,
        so that who reads the row first finds the log whole."""
        ...

    async def read(self, thread_id: str, run_id: str, after: EventId | None, limit: int) -> Page | None:
        """At most `limit` entries after an id (None = from the beginning), fewer where they are large.
        None = the log cannot be read now."""
        ...

    def followed(self, thread_id: str, run_id: str) -> AbstractAsyncContextManager[None]:
        """While somebody in this process follows a run of another worker: hints of its events arrive here, as
        fast as the adapter can. Does no I/O."""
        ...

    async def aclose(self) -> None:
        """What was appended is where other workers read it, or was given up. Idempotent."""
        ...

    def forget(self, run_id: str) -> None:
        """The run has left its worker's memory. A log that lives elsewhere has a time to live of its own."""
        ...

    def remove(self, thread_id: str, run_id: str) -> None:
        """The run is removed for good, and its log with it. Fire and forget, from any worker."""
        ...
