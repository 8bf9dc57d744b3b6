"""How much of a log is kept: so many events, so many bytes."""

from __future__ import annotations

from collections import deque

_PARTS = 16
"""Sizes are remembered by the sixteenth of a log, so that one of 10,000 events costs no 10,000 numbers."""


class Window:
    """Counts what is appended to one log. Keeps 15/16 of what the bounds allow or more; always the newest."""

    __slots__ = ("_bytes", "_events", "_max_bytes", "_max_events", "_parts", "_total")

    def __init__(self, max_events: int, max_bytes: int) -> None:
        self._max_events, self._max_bytes = max_events, max_bytes
        self._parts: deque[tuple[int, int]] = deque()  # first number, bytes
        self._total = 0
        self._events = self._bytes = 0

    def add(self, number: int, size: int) -> int:
        """The oldest number that is to be kept once `number` is appended."""
        if self._is_full() or not self._parts:
            self._parts.append((number, 0))
            self._events = self._bytes = 0
        self._events += 1
        self._bytes += size
        self._total += size
        self._parts[-1] = (self._parts[-1][0], self._bytes)
        while len(self._parts) > 1 and self._is_over(number):
            self._total -= self._parts.popleft()[1]
        return self._parts[0][0]

    def _is_full(self) -> bool:
        return self._events * _PARTS >= self._max_events or self._bytes * _PARTS >= self._max_bytes

    def _is_over(self, number: int) -> bool:
        return number - self._parts[0][0] >= self._max_events or self._total > self._max_bytes
