"""The event log port: the events of a run, in order, with a time to live.

An event's id is `<fence>-<number>`. The owner numbers the events of a run and fence 1, 2, 3 … without gaps.
Therefore ids only grow, the log itself refuses an owner with an older fence, a repeated append is recognised,
and a reader detects missing events from the numbers alone.

The log is a cache for followers and decides nothing (law 1): it may be truncated, expired, flushed or
unreachable. The end of a run is read from its row. Adapters: `event_logs.local` for one process,
`event_logs.redis` and `event_logs.store` for several.
"""

from __future__ import annotations

import json
import re
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol, Self, runtime_checkable

from coordinator.schemas import Cause, Json, RunStatus

END = ""
"""The mode of the entry that closes a log; no event may use it."""

OMITTED = "omitted"
"""The mode of an event in place of one that was too large for the log. Every follower receives it, whatever
modes it selects. Its data: `{"mode": …, "bytes": …, "max_bytes": …}`."""

_ID = re.compile(r"([0-9]{1,19})-([0-9]{1,19})", re.ASCII)
_LARGEST = 2**63 - 1  # half of the range of a Redis stream id, so that the successor of every id is valid


class EventId(NamedTuple):
    """Tuple order is the order of the log."""

    fence: int
    number: int

    def __str__(self) -> str:
        return f"{self.fence}-{self.number}"

    @property
    def next(self) -> EventId:
        return EventId(self.fence, self.number + 1)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse an id received from a client. Raises ValueError."""
        match = _ID.fullmatch(text)
        if match is None:
            raise ValueError("must be <fence>-<number>")
        fence, number = int(match[1]), int(match[2])
        if max(fence, number) >= _LARGEST:
            raise ValueError("is greater than any id")
        return cls(fence, number)


@dataclass(frozen=True, slots=True)
class Event:
    """An event emitted by a run's code: `mode` is `custom`, `values`, `updates|<subgraph>` …, `json` the
    data."""

    id: EventId
    mode: str
    json: str

    @property
    def data(self) -> Json:
        """Decoded on each access; code that forwards events uses `json`."""
        return json.loads(self.json)


@dataclass(frozen=True, slots=True)
class Gap:
    """Events after `after` and before `before` existed, or may have existed, and are not available.

    `after` None = since the beginning; `before` None = up to the next event, or to the end of the log.
    """

    after: str | None
    before: str | None


@dataclass(frozen=True, slots=True)
class End:
    """The run has settled, as read from its row. Always the last item delivered to a follower.

    `last_id` is the newest event delivered to this follower, or the id after which it began. `complete`: no
    event was missed since then. False also if this cannot be proven: the owner died, or the log is lost.
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
"""After every id: only events appended from now on."""


class Appended(StrEnum):
    done = "done"  # also for a repeated append
    late = "late"  # a later number is in the log already; this event stays missing
    stale = "stale"  # the log has a newer fence of the thread; only the store can confirm it
    lost = "lost"  # no answer within the budget: the entry may or may not be appended
    refused = "refused"  # an error of this entry: a retry would fail as well


class Entry(NamedTuple):
    """An entry to append. `floor` is the oldest id to keep; the log may truncate older ones."""

    id: EventId
    mode: str
    json: str
    floor: EventId


class Page(NamedTuple):
    """Consecutive entries of a log, including the closing one (mode `END`). `top` is the newest id of the log
    if known, and always known if `events` is empty; None then = the log does not exist."""

    events: tuple[Event, ...]
    top: EventId | None


class EventLog(Protocol):
    """No method raises because the log is unreachable ("away")."""

    @property
    def away(self) -> bool:
        """The log is unreachable: appends and reads return immediately without trying it."""
        ...

    async def returned(self) -> None:
        """Wait until the log is reachable; returns immediately if it is reachable or closed."""
        ...

    async def append(self, thread_id: str, run_id: str, entry: Entry) -> Appended:
        """Append an entry, unless the log has a newer fence, and notify followers on other workers.

        One attempt, bounded by the adapter's budget. Idempotent for an id. Renews the log's time to live.
        """
        ...

    def reclaim(self, thread_id: str, run_id: str, fence: int) -> None:
        """Discard newer fences in the slot and in this run's log: the store has confirmed that `fence` holds
        the thread. No-op if there is no newer fence. Fire and forget, in order with `append`."""
        ...

    def close(self, thread_id: str, run_id: str, entry: Entry) -> None:
        """Append the last entry of a fence (mode `END`). Fire and forget. Called before the run's row
        settles: a reader that sees the settled row finds the complete log."""
        ...

    async def flushed(self, thread_id: str, run_id: str) -> None:
        """Return when every worker can read the entries of the run that were appended before, or when they
        are given up. The caller bounds the wait."""
        ...

    async def read(self, thread_id: str, run_id: str, after: EventId | None, limit: int) -> Page | None:
        """Read at most `limit` entries after an id (None = from the beginning), fewer if they are large.
        Returns None if the log cannot be read now."""
        ...

    def peek(self, run_id: str, after: EventId | None, limit: int) -> Page | None:
        """Return what `read` would return, without I/O, if this process has it in memory. Else None."""
        ...

    def followed(self, thread_id: str, run_id: str) -> AbstractAsyncContextManager[None]:
        """Subscribe to hints about new events of a run of another worker, for as long as the context is open.
        Entering does no I/O."""
        ...

    async def aclose(self) -> None:
        """Flush pending appends, or give them up after the budget. Idempotent."""
        ...

    def forget(self, run_id: str) -> None:
        """Evict the run's events from this process. A log outside the process expires by its own time to
        live."""
        ...

    def remove(self, thread_id: str, run_id: str) -> None:
        """Remove the log of a run that was pruned. Fire and forget; any worker may call it."""
        ...


@runtime_checkable
class CopiedEventLog(Protocol):
    """An event log of which the owner of a run keeps a copy in memory, for followers on its worker."""

    def inherit(self, run_id: str) -> None:
        """Drop the copy. Other workers have executed earlier attempts of the run, so what is appended from
        here on is a part of the log."""
        ...
