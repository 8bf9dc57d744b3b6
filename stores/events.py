"""The event port: stores the events of runs for a limited time, for event logs that outlive their worker.

Errors of every call: StoreUnavailable, StoreRefused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol, runtime_checkable

Position = tuple[int, int]
"""Fence and number of an event. The number counts 1, 2, 3 … for each run and fence."""


class NewEvents(NamedTuple):
    """Events that a run emitted under one fence, ascending: (number, mode, JSON). The JSON is ASCII. Events
    before `floor` are trimmed."""

    run_id: str
    fence: int
    entries: tuple[tuple[int, str, str], ...]
    floor: Position = (0, 0)


class Kept(StrEnum):
    """The outcome of appending `NewEvents`."""

    done = "done"  # stored; events that were stored before are unchanged
    stale = "stale"  # refused: the run has another fence, or its worker is dead
    gone = "gone"  # refused: the run does not exist


class EventsKept(NamedTuple):
    """`followed`: whether a client follows the run on another worker than its own."""

    kept: Kept
    followed: bool


class EventPage(NamedTuple):
    """Consecutive events: (fence, number, mode, JSON). `top`: the newest event of the log; None = the log is
    empty."""

    events: tuple[tuple[int, int, str, str], ...]
    top: Position | None


@runtime_checkable
class EventStore(Protocol):
    """Events have a TTL, which each append renews for the whole log of the run. They are removed together
    with their run, in the same transaction."""

    async def append_events(self, logs: Sequence[NewEvents], *, ttl: float) -> list[EventsKept]:
        """Stores the events of several runs in one transaction, and returns one outcome for each run. The
        guard is that of an owner's writes, except that a settled run may still store earlier events.
        Idempotent. `ttl`: seconds. A power failure may lose the events of the last second."""
        ...

    async def events(self, run_id: str, after: Position | None, *, limit: int, max_bytes: int) -> EventPage:
        """Returns at most `limit` events after a position (None = from the beginning). A page ends after the
        event that reaches `max_bytes` of JSON."""
        ...

    async def log_tops(self, run_ids: Sequence[str]) -> Mapping[str, Position]:
        """Returns the newest event of each log that is not empty. A read."""
        ...

    def events_version(self) -> int | None:
        """Returns a number that changes whenever another process has written; does not block. None = unknown:
        only `log_tops` shows whether a log has grown."""
        ...

    async def follow_runs(self, run_ids: Sequence[str], *, seconds: float, logs: bool) -> None:
        """Marks runs as followed by clients of the caller, for `seconds`. Meanwhile a settled run is not
        removed with a thread whose TTL has passed. `logs`: also, `append_events` returns `followed` to the
        owners of unsettled runs."""
        ...

    async def expire_events(self, *, limit: int, max_bytes: int | None) -> int:
        """Removes about `limit` events at most whose TTL has passed on the store's clock, and returns their
        number. If all logs together exceed `max_bytes` of JSON (None = not checked), the logs that were
        appended to least recently expire at once."""
        ...
