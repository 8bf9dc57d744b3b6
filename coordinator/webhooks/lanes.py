"""Lanes limit concurrent attempts to one receiver, so that a receiver that hangs does not block the others.

The limit is per receiver and user: one user's webhooks to a slow page of a shared host must not delay those
of other users. Fairness between users is enforced when webhooks are claimed (`stores.webhooks.Shares`).

A receiver that answers quickly has no limit. The limit applies as soon as one answer is late, so more
attempts may be in progress then, for at most one timeout.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

SHORTEST, LONGEST = 0.1, 60.0
"""Bounds (s) of the delay after which a postponed attempt is due again. The upper one bounds a wrong
estimate."""
QUICK = 1.0
"""Seconds after which an answer is late."""
REMEMBERED = 1000
"""Maximum number of lanes whose response times are kept."""


class Full(Exception):
    """The concurrency limit is reached. `retry_in`: seconds."""

    def __init__(self, retry_in: float) -> None:
        super().__init__(f"again in {retry_in:.1f} s")
        self.retry_in = retry_in


@dataclass(slots=True)
class _Lane:
    started_at: list[float] = field(default_factory=list[float])
    """Start times of the attempts in progress, in order."""
    mean_duration: float | None = None
    """Exponential moving average of the duration of an attempt (s); None = none has ended."""
    booked_until: float = 0.0
    """Until this time, every slot that becomes free is booked by a postponed attempt."""

    def quick(self, now: float) -> bool:
        late = bool(self.started_at) and now - self.started_at[0] > QUICK
        return self.mean_duration is not None and self.mean_duration <= QUICK and not late


class Lanes:
    """`width`: concurrent attempts for each receiver that is not quick. `per_user`: concurrent attempts of
    one user in total, of which one receiver gets at most half. `clock`: seconds."""

    def __init__(
        self, width: int, *, per_user: int = 1000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._width, self._width_of_user = width, min(width, max(1, per_user // 2))
        self._clock = clock
        self._lanes: dict[tuple[str | None, str], _Lane] = {}

    def __len__(self) -> int:
        return len(self._lanes)

    @contextmanager
    def slot(self, origin: str, user_id: str | None = None) -> Generator[None]:
        """Holds a slot for one attempt within the block. `origin`: scheme, host and port. Raises Full; its
        `retry_in` grows with each refusal, at the rate at which the receiver frees slots, so that a long
        queue is not claimed again and again."""
        lane, began = self._lane((user_id, origin)), self._clock()
        width = self._width if user_id is None else self._width_of_user
        if len(lane.started_at) >= width and not lane.quick(began):
            interval = max(lane.mean_duration or 0.0, began - lane.started_at[0]) / width
            lane.booked_until = max(lane.booked_until, began) + interval
            raise Full(min(max(lane.booked_until - began, SHORTEST), LONGEST))
        lane.started_at.append(began)
        try:
            yield
        finally:
            lane.started_at.remove(began)
            took = self._clock() - began
            mean = lane.mean_duration
            lane.mean_duration = took if mean is None else mean + 0.3 * (took - mean)

    def _lane(self, receiver: tuple[str | None, str]) -> _Lane:
        """Returns the lane, and evicts the least recently used idle one beyond REMEMBERED."""
        lane = self._lanes.pop(receiver, None) or _Lane()
        if len(self._lanes) >= REMEMBERED:
            idle = next((name for name, other in self._lanes.items() if not other.started_at), None)
            if idle is not None:
                del self._lanes[idle]
        self._lanes[receiver] = lane
        return lane
