"""A suite: checks of a port that any test runner can run, or none."""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

Subject = TypeVar("Subject")
Error = TypeVar("Error", bound=Exception)


@dataclass(frozen=True, slots=True)
class Check(Generic[Subject]):
    """`await check(subject)` raises an error, usually AssertionError, where the adapter does not keep its
    contract. `promise`: the part of the contract that is checked, as a sentence; may be empty."""

    name: str
    run: Callable[[Subject], Awaitable[None]]
    promise: str = ""

    async def __call__(self, subject: Subject) -> None:
        await self.run(subject)

    def __str__(self) -> str:
        return self.name


async def run_all(
    checks: tuple[Check[Subject], ...], make: Callable[[], AbstractAsyncContextManager[Subject]]
) -> None:
    """Each check on a subject of its own, which `make` opens. A task that is left running is a failure.
    Raises an ExceptionGroup of what failed, each with its check and promise; its message has the broken
    promises."""
    failures, broken = list[Exception](), dict[str, None]()
    for check in checks:
        before = asyncio.all_tasks()
        try:
            async with make() as subject:
                await check(subject)
            left = asyncio.all_tasks() - before
            assert not left, f"tasks left behind: {left}"
        except Exception as error:  # noqa: BLE001 - whatever the adapter raises is its failure
            error.add_note(f"conformance check: {check}")
            if check.promise:
                error.add_note(f"broken promise: {check.promise}")
                broken[check.promise] = None
            failures.append(error)
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
