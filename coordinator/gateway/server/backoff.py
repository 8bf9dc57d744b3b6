"""How long to wait before a worker that ended by itself is started again."""

from __future__ import annotations

STEADY = 10.0
"""Seconds. Who served for so long has not crashed at its start: its successor is started at once."""

_FIRST, _LONGEST = 0.5, 30.0  # s


class Backoff:
    """Of one slot: nothing after a steady life, then 0.5 s, 1 s, 2 s … 30 s."""

    def __init__(self) -> None:
        self.failures = 0

    def next(self, lived: float) -> float:
        """Seconds to wait. `lived`: for how long it had served; 0 where it never got so far."""
        if lived >= STEADY:
            self.failures = 0
            return 0.0
        self.failures += 1
        return min(_LONGEST, _FIRST * 2.0 ** min(self.failures - 1, 10))
