"""Stamps grow, and survive a system clock that jumps."""

from __future__ import annotations

from datetime import UTC, datetime

from coordinator.clock import Stamps

MINUTE = 60_000_000
YEAR = 365 * 24 * 60 * MINUTE
NOW = round(datetime(2026, 3, 1, tzinfo=UTC).timestamp()) * 1_000_000


class Wall:
    """A system clock that is set by hand (microseconds)."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> int:
        return self.now


def test_stamps_of_one_moment_grow() -> None:
    stamps = Stamps(Wall())
    given = [stamps.now() for _ in range(3)]
    assert given == sorted(set(given))


def test_stamps_grow_while_the_clock_is_set_back_a_little() -> None:
    wall = Wall()
    stamps = Stamps(wall)
    first = stamps.now()
    wall.now -= MINUTE - 1
    assert stamps.now() > first


def test_clock_that_jumped_ahead_and_back_dates_nothing_ahead_for_ever() -> None:
    wall = Wall()
    stamps = Stamps(wall)
    before = stamps.now()
    wall.now += 10 * YEAR
    ahead = stamps.now()
    wall.now -= 10 * YEAR
    after = [stamps.now() for _ in range(3)]
    assert ahead.startswith("2036")
    assert all(stamp.startswith("2026-03-01T00:00:00") for stamp in after)
    assert [before, *after][1:] == sorted(set(after))
