"""The worker's clocks."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

_BOOTTIME: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boottime() -> float:
    """Seconds that no clock jump changes and that go on while the machine sleeps (where the platform
    has CLOCK_BOOTTIME; elsewhere CLOCK_MONOTONIC, which may stand still during sleep)."""
    return time.clock_gettime(_BOOTTIME)


class Stamps:
    """created_at and updated_at texts: ISO 8601, UTC, microseconds, strictly growing."""

    def __init__(self) -> None:
        self._last = datetime.min.replace(tzinfo=UTC)

    def now(self) -> str:
        moment = datetime.now(UTC)
        if moment <= self._last:
            moment = self._last + timedelta(microseconds=1)
        self._last = moment
        return moment.isoformat(timespec="microseconds")
