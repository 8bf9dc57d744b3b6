"""The window of a log that is retained: bounded in events and in bytes."""

from __future__ import annotations

_PARTS = 16
"""Sizes are counted for sixteenths of a log, so that a log of 10,000 events does not need 10,000 counters."""


class Window:
    """Counts the events of one log. Retains the newest ones, at least 15/16 of what the bounds allow."""

    __slots__ = ("_bytes", "_events", "_max_bytes", "_max_events", "_parts", "_total")

    def __init__(self, max_events: int, max_bytes: int) -> None:
        self._max_events, self._max_bytes = max_events, max_bytes
        self._parts: list[tuple[int, int]] = []  # first number, bytes
        self._total = 0
        self._events = self._bytes = 0

    def add(self, number: int, size: int) -> int:
        """Counts event `number` of `size` bytes. Returns the number of the oldest event that is retained
        then."""
        full = self._events * _PARTS >= self._max_events or self._bytes * _PARTS >= self._max_bytes
        if full or not self._parts:
            self._parts.append((number, 0))
            self._events = self._bytes = 0
        self._events += 1
        self._bytes += size
        self._total += size
        self._parts[-1] = (self._parts[-1][0], self._bytes)
        while len(self._parts) > 1 and self._is_over(number):
            self._total -= self._parts.pop(0)[1]
        return self._parts[0][0]

    def _is_over(self, number: int) -> bool:
        return number - self._parts[0][0] >= self._max_events or self._total > self._max_bytes
