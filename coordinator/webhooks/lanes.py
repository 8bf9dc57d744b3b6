"""Lanes: how many attempts go to one receiver at once, so that one that hangs leaves room for the others.

What one user has sent to a receiver does not count for another: naming a slow page of a host that many use
must not hold up their webhooks. That one user leaves room for all others is for claims to see to
(`stores.webhooks.Shares`).

Who answers quickly is in nobody's way and has no limit of its own. It is limited from the moment on at which
an answer is late, so what it has under way then may be more, and stays so for one time-out at most.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

SHORTEST, LONGEST = 0.1, 60.0
"""s; what is postponed is due again after. The longest bounds what a wrong estimate costs."""
QUICK = 1.0
"""s; an answer that takes longer is late."""
REMEMBERED = 1000
"""Receivers whose pace is known."""


class Full(Exception):
    """There is no place now. `come_again`: in so many seconds."""

    def __init__(self, come_again: float) -> None:
        super().__init__(f"again in {come_again:.1f} s")
        self.come_again = come_again


@dataclass(slots=True)
class _Lane:
    under_way: list[float] = field(default_factory=list[float])
    """When each of them began, the first one first."""
    typical: float | None = None
    """s that an attempt takes, the last ones counting most; None = none has ended."""
    booked: float = 0.0
    """Until then there is somebody due for every place that becomes free."""

    def quick(self, now: float) -> bool:
        late = bool(self.under_way) and now - self.under_way[0] > QUICK
        return self.typical is not None and self.typical <= QUICK and not late


class Lanes:
    """`width`: attempts at once for each receiver that is not quick; `per_user`: how many attempts of one
    user there are at all. Of these a receiver gets no more than half. `clock`: s."""

    def __init__(
        self, width: int, *, per_user: int = 1000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._width, self._width_of_user = width, min(width, max(1, per_user // 2))
        self._clock = clock
        self._lanes: dict[tuple[str | None, str], _Lane] = {}

    def __len__(self) -> int:
        return len(self._lanes)

    @contextmanager
    def place(self, origin: str, user_id: str | None = None) -> Generator[None]:
        """For one attempt. A receiver is a scheme, a host and a port. Raises Full; who comes again when it
        says so comes one after another, at the pace at which the receiver makes room: a long queue is not
        looked through again and again."""
        lane, began = self._lane((user_id, origin)), self._clock()
        width = self._width if user_id is None else self._width_of_user
        if len(lane.under_way) >= width and not lane.quick(began):
            pace = max(lane.typical or 0.0, began - lane.under_way[0]) / width
            lane.booked = max(lane.booked, began) + pace
            raise Full(min(max(lane.booked - began, SHORTEST), LONGEST))
        lane.under_way.append(began)
        try:
            yield
        finally:
            lane.under_way.remove(began)
            took = self._clock() - began
            lane.typical = took if lane.typical is None else lane.typical + 0.3 * (took - lane.typical)

    def _lane(self, receiver: tuple[str | None, str]) -> _Lane:
        """The one that was asked for last comes last: others are forgotten first."""
        lane = self._lanes.pop(receiver, None) or _Lane()
        if len(self._lanes) >= REMEMBERED:
            idle = next((name for name, other in self._lanes.items() if not other.under_way), None)
            if idle is not None:
                del self._lanes[idle]
        self._lanes[receiver] = lane
        return lane
