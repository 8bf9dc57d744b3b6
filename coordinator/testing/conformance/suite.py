"""A suite: checks of a port that any test runner can run, or none."""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

Subject = TypeVar("Subject")
Error = TypeVar("Error", bound=Exception)


LIMIT = 30.0
"""Seconds that a check may take, with the opening and closing of its subject."""
_LAST_STEPS = 1.0  # s for a check that was cancelled at its limit


@dataclass(frozen=True, slots=True)
class Check(Generic[Subject]):
    """`await check(subject)` raises an error, usually AssertionError, where the adapter does not keep its
    contract, and TimeoutError where it has not ended within `limit` (s). The notes of each error have the
    check and its promise; the message of an AssertionError begins with the promise.
    `promise`: the part of the contract that is checked, as a sentence; may be empty."""

    name: str
    run: Callable[[Subject], Awaitable[None]]
    promise: str = ""
    limit: float = LIMIT

    async def __call__(self, subject: Subject) -> None:
        async def run() -> None:
            await self.run(subject)

        await self._reported(run())

    async def on(self, make: Callable[[], AbstractAsyncContextManager[Subject]]) -> None:
        """The check on a subject that `make` opens. A task that is left running is a failure."""
        await self._reported(self._alone(make))

    def __str__(self) -> str:
        return self.name

    async def _alone(self, make: Callable[[], AbstractAsyncContextManager[Subject]]) -> None:
        before = asyncio.all_tasks()
        async with make() as subject:
            await self.run(subject)
        left = asyncio.all_tasks() - before
        assert not left, f"tasks left behind: {left}"

    async def _reported(self, running: Coroutine[object, object, None]) -> None:
        try:
            await self._limited(running)
        except Exception as error:
            error.add_note(f"conformance check: {self.name}")
            if self.promise:
                error.add_note(f"broken promise: {self.promise}")
                if isinstance(error, AssertionError):
                    what = str(error) or traceback.extract_tb(error.__traceback__)[-1].line
                    error.args = (f"broken promise: {self.promise}: {what}",)
            raise

    async def _limited(self, running: Coroutine[object, object, None]) -> None:
        """In a task of its own, because a call that ignores its cancellation must not hold up the suite."""
        task = asyncio.create_task(running, name=f"conformance check {self.name}")
        try:
            await asyncio.wait({task}, timeout=self.limit)
            hangs = not task.done()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task}, timeout=_LAST_STEPS)
        if hangs:
            if task.done() and not task.cancelled():
                task.exception()  # retrieved, so that asyncio logs nothing
            raise TimeoutError(f"check {self.name} has not ended within {self.limit} s: a call hangs")
        await task


async def run_all(
    checks: tuple[Check[Subject], ...], make: Callable[[], AbstractAsyncContextManager[Subject]]
) -> None:
    """Each check on a subject of its own, which `make` opens. Raises an ExceptionGroup of what failed, each
    with its check and promise; its message has the broken promises."""
    failures, broken = list[Exception](), dict[str, None]()
    for check in checks:
        try:
            await check.on(make)
        except Exception as error:  # noqa: BLE001 - whatever the adapter raises is its failure
            failures.append(error)
            if check.promise:
                broken[check.promise] = None
    if failures:
        message = f"{len(failures)} of {len(checks)} conformance checks failed"
        raise ExceptionGroup(": ".join((message, "; ".join(broken))) if broken else message, failures)


def checks_of(
    *functions: Callable[[Subject], Awaitable[None]], promise: str = ""
) -> tuple[Check[Subject], ...]:
    return tuple(Check(function.__name__, function, promise) for function in functions)


def checks_for(
    values: Sequence[str], *functions: Callable[[Subject, str], Awaitable[None]], promise: str = ""
) -> tuple[Check[Subject], ...]:
    """One for each function and value."""
    return tuple(_check_of(function, value, promise) for function in functions for value in values)


def _check_of(
    function: Callable[[Subject, str], Awaitable[None]], value: str, promise: str
) -> Check[Subject]:
    return Check(f"{function.__name__}[{value!a:.20}]", lambda subject: function(subject, value), promise)


@contextmanager
def refused(*kinds: type[Error]) -> Generator[list[Error]]:
    """The block must raise one of these errors, which is then in the list. Raises AssertionError."""
    errors = list[Error]()
    try:
        yield errors
    except kinds as error:
        errors.append(error)
    assert errors, f"not refused: expected {' or '.join(kind.__name__ for kind in kinds)}"


async def wait_until(holds: Callable[[], object], *, description: str, timeout: float = 20.0) -> None:
    """Raises AssertionError with `description` after `timeout` (s)."""
    until = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < until, f"not within {timeout} s: {description}"
        await asyncio.sleep(0.002)


class _Errors(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self.texts += [record.getMessage(), *(traceback.format_exception(error) if error else ())]


@contextmanager
def errors_logged() -> Generator[list[str]]:
    """The texts and tracebacks of errors that any logger logs, including those that do not propagate."""
    handler = _Errors()
    known = [
        logger for logger in logging.Logger.manager.loggerDict.values() if isinstance(logger, logging.Logger)
    ]
    listening = [logging.getLogger(), *(logger for logger in known if not logger.propagate)]
    for logger in listening:
        logger.addHandler(handler)
    try:
        yield handler.texts
    finally:
        for logger in listening:
            logger.removeHandler(handler)
