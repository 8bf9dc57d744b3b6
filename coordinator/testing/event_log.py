"""The event log of a cluster, which all its workers read."""

from __future__ import annotations

from collections.abc import Callable

from coordinator.event_log import Appended, Entry, EventId, Page
from coordinator.event_logs.local import LocalEventLog


class ClusterEventLog(LocalEventLog):
    """A log expires `ttl` (s, on `clock`) after its last event, as in Redis and in a file."""

    def __init__(self, ttl: float, clock: Callable[[], float]) -> None:
        super().__init__()
        self._ttl, self._clock = ttl, clock
        self._written: dict[str, float] = {}

    def add(self, run_id: str, entry: Entry) -> Appended:
        self._expire(run_id)
        self._written[run_id] = self._clock()
        return super().add(run_id, entry)

    def peek(self, run_id: str, after: EventId | None, limit: int) -> Page:
        self._expire(run_id)
        return super().peek(run_id, after, limit)

    def forget(self, run_id: str) -> None:
        """No effect: the other workers still read the log."""

    def _expire(self, run_id: str) -> None:
        if self._written.get(run_id, self._clock()) + self._ttl <= self._clock():
            self._drop(run_id)

    def _drop(self, run_id: str) -> None:
        self._written.pop(run_id, None)
        super()._drop(run_id)
