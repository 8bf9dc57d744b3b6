"""How long a run may wait, run, and be silent."""

from __future__ import annotations

from typing import NamedTuple


class TimeLimits(NamedTuple):
    """Seconds; None = unlimited."""

    timeout: float | None = None
    idle: float | None = None
    queue: float | None = None


NO_LIMITS = TimeLimits()
