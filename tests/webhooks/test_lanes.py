"""How many attempts run to one receiver at once, and when the others are due again."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, suppress

import pytest

from coordinator.webhooks.lanes import LONGEST, QUICK, REMEMBERED, SHORTEST, Full, Lanes

A, B = "https://a.example:443", "https://b.example:443"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lanes(clock: Clock) -> Lanes:
    return Lanes(2, clock=clock)


@pytest.fixture
def under_way() -> Generator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def attempts(lanes: Lanes, clock: Clock, seconds: float, number: int = 20) -> None:
    for _ in range(number):
        with lanes.slot(A):
            clock.now += seconds


def fill(lanes: Lanes, under_way: ExitStack) -> None:
    for _ in range(2):
        under_way.enter_context(lanes.slot(A))


def wait(lanes: Lanes) -> float:
    with pytest.raises(Full) as full, lanes.slot(A):
        pass
    return full.value.retry_in


def test_each_receiver_has_its_own_lane(lanes: Lanes, under_way: ExitStack) -> None:
    fill(lanes, under_way)
    wait(lanes)
    under_way.enter_context(lanes.slot(B))


def test_attempts_of_one_user_do_not_count_for_others(clock: Clock, under_way: ExitStack) -> None:
    lanes = Lanes(4, per_user=4, clock=clock)
    for user in ("alice", "bob"):
        for _ in range(2):
            under_way.enter_context(lanes.slot(A, user))
        with pytest.raises(Full), lanes.slot(A, user):
            pass
        under_way.enter_context(lanes.slot(B, user))
    for _ in range(4):
        under_way.enter_context(lanes.slot(A))
    wait(lanes)


def test_slot_is_freed_after_success_and_failure(lanes: Lanes, under_way: ExitStack, clock: Clock) -> None:
    under_way.enter_context(lanes.slot(A))
    with suppress(RuntimeError), lanes.slot(A):
        clock.now += 5.0
        raise RuntimeError
    under_way.enter_context(lanes.slot(A))
    wait(lanes)


def test_retry_in_follows_the_pace_of_the_receiver(lanes: Lanes, under_way: ExitStack, clock: Clock) -> None:
    attempts(lanes, clock, 4.0)
    fill(lanes, under_way)
    assert [wait(lanes) for _ in range(3)] == pytest.approx([2.0, 4.0, 6.0], rel=0.05)
    clock.now += 3.0
    assert wait(lanes) == pytest.approx(5.0, rel=0.05), "behind those"


def test_hanging_receiver_is_slow_before_it_has_answered(
    lanes: Lanes, under_way: ExitStack, clock: Clock
) -> None:
    fill(lanes, under_way)
    assert wait(lanes) == SHORTEST
    clock.now += 10.0
    assert wait(lanes) == pytest.approx(5.0)


def test_quick_receiver_has_no_limit_until_an_answer_is_late(
    lanes: Lanes, under_way: ExitStack, clock: Clock
) -> None:
    attempts(lanes, clock, QUICK / 2, 1)
    for _ in range(10):
        under_way.enter_context(lanes.slot(A))
    clock.now += 2 * QUICK
    assert wait(lanes) == pytest.approx(QUICK)
    under_way.close()
    under_way.enter_context(lanes.slot(A))
    under_way.enter_context(lanes.slot(A))
    wait(lanes)


def test_retry_in_is_bounded(lanes: Lanes, under_way: ExitStack, clock: Clock) -> None:
    fill(lanes, under_way)
    assert wait(lanes) == SHORTEST
    clock.now += 1e6
    assert wait(lanes) == LONGEST


def test_idle_lanes_are_evicted(lanes: Lanes, under_way: ExitStack) -> None:
    fill(lanes, under_way)
    for number in range(REMEMBERED + 10):
        with lanes.slot(f"https://{number}.example:443"):
            pass
    assert len(lanes) == REMEMBERED
    wait(lanes)
