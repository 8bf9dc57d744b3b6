"""A suite: checks of a port that any test runner can run, or none."""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections.abc import Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

Subject = TypeVar("Subject")


@dataclass(frozen=True, slots=True)
class Check(Generic[Subject]):
    """`await check(subject)` raises AssertionError where the adapter does not keep its contract."""

    name: str
    run: Callable[[Subject], Awaitable[None]]

    async def __call__(self, subject: Subject) -> None:
        await self.run(subject)

    def __str__(self) -> str:
        return self.name


async def run_all(
    checks: tuple[Check[Subject], ...], make: Callable[[], AbstractAsyncContextManager[Subject]]
) -> None:
    """Each check on a subject of its own, which `make` opens. A task that is left running is a failure.
    Raises an ExceptionGroup of what failed, each with the name of its check."""
    failures: list[Exception] = []
    for check in checks:
        before = asyncio.all_tasks()
        try:
            async with make() as subject:
                await check(subject)
            left = asyncio.all_tasks() - before
            assert not left, f"tasks left behind: {left}"
        except Exception as error:  # noqa: BLE001 - whatever the adapter raises is its failure
            error.add_note(f"conformance check: {check}")
            failures.append(error)
    if failures:
        raise ExceptionGroup(f"{len(failures)} of {len(checks)} conformance checks failed", failures)


def checks_of(*functions: Callable[[Subject], Awaitable[None]]) -> tuple[Check[Subject], ...]:
    return tuple(Check(function.__name__, function) for function in functions)


def checks_for(
    values: list[str], *functions: Callable[[Subject, str], Awaitable[None]]
) -> tuple[Check[Subject], ...]:
    """One for each function and value."""
    return tuple(_check_of(function, value) for function in functions for value in values)


def _check_of(function: Callable[[Subject, str], Awaitable[None]], value: str) -> Check[Subject]:
    return Check(f"{function.__name__}[{value!a:.20}]", lambda subject: function(subject, value))


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
