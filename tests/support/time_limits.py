"""Hooks of pytest that make each test end near its time limit (pytest-timeout), whatever it hangs in.

At the limit, a signal raises in the code that runs at that moment. Where this is a callback of the event
loop, a task or the code of a run, the exception is logged or stored, and the test hangs as before. Therefore
the signal is repeated. What swallows it again and again, blocks signals, or hangs in the teardown of a failed
test (for which pytest-timeout has no limit), ends the process, with the stacks of all threads on stderr.
"""

from __future__ import annotations

import faulthandler
import os
import signal
from collections.abc import Generator
from types import FrameType
from typing import Protocol

import pytest

AGAIN = 5.0
"""Seconds between two signals after the limit."""
GRACE = 60.0
"""Seconds after the limit until the process ends. pytest-xdist names the test and starts another process."""

_stderr = pytest.StashKey[int]()
_limits = pytest.StashKey["Limits"]()


class Limits(Protocol):
    """The part of pytest-timeout's settings of a test that is used."""

    timeout: float
    method: str


@pytest.hookimpl
def pytest_configure(config: pytest.Config) -> None:
    config.stash[_stderr] = os.dup(2)  # while tests run, their output is captured


@pytest.hookimpl
def pytest_unconfigure(config: pytest.Config) -> None:
    os.close(config.stash[_stderr])


@pytest.hookimpl(wrapper=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Limits) -> Generator[None, object, object]:
    item.stash[_limits] = settings
    answer = yield
    if settings.method == "signal":
        _repeat()
    faulthandler.dump_traceback_later(settings.timeout + GRACE, exit=True, file=item.config.stash[_stderr])
    return answer


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None]:
    __tracebackhide__ = True
    yield from _until_raised(item)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    __tracebackhide__ = True
    yield from _until_raised(item)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    """pytest cancels all limits of a test that has failed: its teardown has them anew."""
    if _limits in item.stash and signal.getitimer(signal.ITIMER_REAL)[0] == 0:
        item.config.hook.pytest_timeout_set_timer(item=item, settings=item.stash[_limits])
    __tracebackhide__ = True
    yield from _until_raised(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


def _repeat() -> None:
    raises = signal.getsignal(signal.SIGALRM)
    assert callable(raises)

    def raise_and_repeat(number: int, frame: FrameType | None) -> None:
        try:
            raises(number, frame)
        finally:
            signal.setitimer(signal.ITIMER_REAL, AGAIN)

    signal.signal(signal.SIGALRM, raise_and_repeat)


def _until_raised(item: pytest.Item) -> Generator[None]:
    """A signal that came later would end pytest itself, which reports the failure."""
    __tracebackhide__ = True
    try:
        yield
    except BaseException:
        item.config.hook.pytest_timeout_cancel_timer(item=item)
        raise
