"""The port that keeps the events of runs for a while: what an event log that outlives its worker needs.

Errors of every call: StoreUnavailable, StoreRefused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol, runtime_checkable

Position = tuple[int, int]
"""Fence and number of an event. The number counts 1, 2, 3 … for each run and fence."""


class NewEvents(NamedTuple):
    """What a run has emitted under one fence, ascending: (number, mode, JSON). JSON is ASCII. Older events
    than `floor` are removed."""

    run_id: str
    fence: int
    entries: tuple[tuple[int, str, str], ...]
    floor: Position = (0, 0)


class Kept(StrEnum):
    """What became of `NewEvents`."""

    done = "done"  # stored; those that were stored before are left as they are
    stale = "stale"  # the run has another fence, or its worker is dead: nothing is stored
    gone = "gone"  # there is no such run: nothing is stored


class EventsKept(NamedTuple):
    """`followed`: a worker that is not the run's own follows the run."""

    kept: Kept
    followed: bool


class EventPage(NamedTuple):
    """Consecutive events: (fence, number, mode, JSON). `top` is the newest one that the log has; None = the
    log is empty."""

    events: tuple[tuple[int, int, str, str], ...]
    top: Position | None


@runtime_checkable
class EventStore(Protocol):
    """Events have a time to live, which each append renews for the whole log of its run. They are removed
    with their run, in the same transaction, whatever removes it."""

    async def append_events(self, logs: Sequence[NewEvents], *, ttl: float) -> list[EventsKept]:
        """Store the events of many runs in one transaction; one answer for each. The guard is that of an
        owner's writes, but for one thing: a run that has settled may still store what it emitted before.
        Repeated, it stores nothing twice. `ttl` (s). A power cut may lose the last second of it."""
        ...

    async def events(self, run_id: str, after: Position | None, *, limit: int, max_bytes: int) -> EventPage:
        """At most `limit` events behind a position (None = from the beginning); none is added to a page that
        has `max_bytes` of JSON."""
        ...

    async def log_tops(self, run_ids: Sequence[str]) -> Mapping[str, Position]:
        """The newest event of each log that is not empty. A read."""
        ...

    def events_version(self) -> int | None:
        """A number that changes whenever another process has written, without I/O that could wait; None
        where only `log_tops` can tell whether a log has grown."""
        ...

    async def follow_runs(self, run_ids: Sequence[str], *, seconds: float, logs: bool) -> None:
        """Runs are followed by the caller's clients. For so long a settled one whose thread has a time to
        live is not removed with its thread. `logs`: also, the owners of those that have not settled are
        answered `followed`."""
        ...

    async def expire_events(self, *, limit: int, max_bytes: int | None) -> int:
        """Remove events whose time to live has passed by the store's clock, at most about `limit`, and answer
        how many this call removed. Where all logs together have more than `max_bytes` of JSON (None: nobody
        asks), those that were silent for longest have no time to live any more."""
        ...
