"""The worker's clocks."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_BOOTTIME: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boottime() -> float:
    """Seconds that no clock jump changes and that go on while the machine sleeps (where the platform
    has CLOCK_BOOTTIME; elsewhere CLOCK_MONOTONIC, which may stand still during sleep)."""
    return time.clock_gettime(_BOOTTIME)


def wall() -> int:
    """Microseconds since 1970. For stamps that people read; nothing is decided by it."""
    return time.time_ns() // 1000


@dataclass(frozen=True, slots=True)
class Clocks:
    """What a worker measures with, so that a simulation can turn the hands. Timers are the event loop's."""

    boottime: Callable[[], float] = boottime
    wall: Callable[[], int] = wall
    monotonic: Callable[[], float] = time.monotonic


_AHEAD = 60_000_000
"""Microseconds. Stamps go back where the clock has been set back by more."""


class Stamps:
    """created_at and updated_at texts: ISO 8601, UTC, microseconds, strictly growing. They go back once
    where the system clock was set back by more than a minute: else one jump ahead would date all that
    comes after it.

    The text up to the second is kept: making it anew took 5 of a run's 200 us.
    """

    def __init__(self, wall: Callable[[], int] = wall) -> None:
        self._wall = wall
        self._last = 0
        self._second = -1
        self._until_second = ""

    def later(self, millis: int) -> str:
        """So long from now; of these, equal ones may be given out twice."""
        moment = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=self._wall() + millis * 1000)
        return moment.isoformat(timespec="microseconds")

    def now(self) -> str:
        now = self._wall()
        self._last = now if self._last - now > _AHEAD else max(now, self._last + 1)
        second, micros = divmod(self._last, 1_000_000)
        if second != self._second:
            self._second = second
            self._until_second = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._until_second}.{micros:06d}+00:00"
