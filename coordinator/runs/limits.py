"""Time limits of a run."""

from __future__ import annotations

from typing import NamedTuple


class TimeLimits(NamedTuple):
    """In seconds; None = unlimited. `timeout`: from the start; `idle`: without a sign of life; `queue`: in
    the queue."""

    timeout: float | None = None
    idle: float | None = None
    queue: float | None = None


NO_LIMITS = TimeLimits()
