"""Pairs of an await point and what may strike there: which there are, and which a seed is aimed at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import count

from tests.simulation.faults import STRIKES
from tests.simulation.points import CALLERS, LATER, NO_CALLER_WAITS, WAYS, Point
from tests.simulation.scenes import SCENES, Aim, Scene

WHERE = ("before", "after")
"""The commit."""

IMPOSSIBLE: Mapping[Aim, str] = {
    (*point, where, "cancel"): why for point, why in NO_CALLER_WAITS.items() for where in WHERE
}
"""Pairs that cannot be, and why."""

POSSIBLE: tuple[Aim, ...] = tuple(
    pair
    for points in ([point for point in WAYS if point not in LATER], LATER)
    for strike in STRIKES
    for where in WHERE
    for point in points
    if (pair := (*point, where, strike)) not in IMPOSSIBLE
)

EVERY = 3
"""One seed of so many is aimed at a pair."""


def aim_of(seed: int) -> Aim | None:
    """A function of the seed alone, so that it replays outside its campaign."""
    return POSSIBLE[seed // EVERY % len(POSSIBLE)] if seed % EVERY == EVERY - 1 else None


def seeds_for(aim: Aim, beyond: int) -> Iterator[int]:
    """All seeds that are aimed at a pair, from `beyond` on."""
    first, step = EVERY * POSSIBLE.index(aim) + EVERY - 1, EVERY * len(POSSIBLE)
    return count(first + max(0, -((first - beyond) // step)) * step, step)


def way_to(aim: Aim) -> tuple[Scene, tuple[Aim, ...]]:
    """The scene that leads there, and everything that has to strike in it."""
    point: Point = aim[:2]
    ways = CALLERS if aim[3] == "cancel" and point in CALLERS else WAYS
    return SCENES[ways[point]], (aim,)


class Tally:
    """What a campaign met, compared with what there is."""

    def __init__(self, met: Counter[Aim]) -> None:
        strikes = Counter({pair: times for pair, times in met.items() if pair[2] in WHERE})
        self.points = {pair[:2] for pair in strikes}
        self.met = Counter({pair: times for pair, times in strikes.items() if pair[3] in STRIKES})
        self.unmet = [pair for pair in POSSIBLE if not self.met[pair]]
        self.unknown = sorted(self.points - set(WAYS))
        """Await points that `points.py` does not have."""
        self.impossible = sorted(pair for pair in self.met if pair in IMPOSSIBLE)

    def wrong(self) -> list[str]:
        return [f"{' / '.join(point)} is missing in points.py" for point in self.unknown] + [
            f"{' / '.join(pair)} was met, and is called impossible" for pair in self.impossible
        ]
