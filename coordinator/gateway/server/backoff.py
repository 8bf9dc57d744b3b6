"""Backoff before a worker that ended unexpectedly is restarted."""

from __future__ import annotations

STEADY = 10.0
"""Seconds. A worker that served for this long has not crashed at its start: it is restarted at once."""

_FIRST, _MAX = 0.5, 30.0  # s


class Backoff:
    """Backoff of one slot: 0 s after `STEADY` seconds of service, else 0.5 s, 1 s, 2 s … 30 s."""

    def __init__(self) -> None:
        self.failures = 0

    def next(self, lived: float) -> float:
        """Returns the delay (s) before the next start. `lived` is how long (s) the worker served; 0 if it
        never listened."""
        if lived >= STEADY:
            self.failures = 0
            return 0.0
        self.failures += 1
        return min(_MAX, _FIRST * 2.0 ** min(self.failures - 1, 10))
