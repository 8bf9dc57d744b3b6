"""Log lines about a failing projection: the first failure, counts for each interval, the recovery."""

from __future__ import annotations

import logging

import pytest

from coordinator import RunChange
from coordinator.workers.projection_log import INTERVAL, ProjectionLog


class Failing:
    """A projection on a clock of the test."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.log = ProjectionLog("table", lambda: self.now)

    def fail(self, times: int = 1, *, waiting: int = 1, every: float = 0.0) -> None:
        for number in range(times):
            change = RunChange(number, "r", "t", 0, "started", 1, None)
            self.log.failed(change, ConnectionError("locked"), waiting=waiting)
            self.now += every


@pytest.fixture(autouse=True)
def level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def test_first_failure_has_its_exception_and_further_ones_are_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failing = Failing()
    failing.fail(100, waiting=7, every=0.5)
    [first] = caplog.records
    assert first.exc_info is not None
    assert "could not apply change 0 of run 'r' (attempt 1)" in first.getMessage()
    failing.now += 10
    failing.fail(waiting=8)
    second = caplog.records[1]
    assert (second.levelno, second.exc_info) == (logging.WARNING, None)
    for part in ("failed 100 times in the last 60 s", "changes of 8 threads wait", "ConnectionError: locked"):
        assert part in second.getMessage()


def test_recovery_counts_what_has_failed(caplog: pytest.LogCaptureFixture) -> None:
    failing = Failing()
    failing.log.works()
    assert not caplog.records
    failing.fail(3, every=2.0)
    failing.log.works()
    failing.log.works()
    _, recovery = caplog.records
    assert recovery.levelno == logging.INFO
    assert "works again: it has failed 3 times in 6.0 s" in recovery.getMessage()


def test_projection_that_fails_and_recovers_in_turn_has_two_lines_an_interval(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failing = Failing()
    for _ in range(60):
        failing.fail(every=0.5)
        failing.log.works()
        failing.now += 0.5
    assert [line.levelno for line in caplog.records] == [logging.WARNING, logging.INFO]
    failing.now += INTERVAL
    failing.fail()
    assert caplog.records[2].exc_info is not None, "the first line of a further outage"
