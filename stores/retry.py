"""Retries of short writes after transient errors of SQLite. Other errors are not retried."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")

_MESSAGES = ("database is locked", "table is locked", "database is busy")
_UNIQUE = {sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY}
_CODES = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


@dataclass(frozen=True)
class PersistenceRetryPolicy:
    """Bounds retries. `max_attempts` counts all calls. Delays are in seconds; 0 = no pause."""

    max_attempts: int = 5
    initial_delay: float = 0.05
    max_delay: float = 1.0
    backoff_factor: float = 2.0


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yields the error and all errors that it wraps (`orig`, `__cause__`, `__context__`), each once."""
    pending, seen = [error], set[int]()
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        carried = (getattr(current, "orig", None), current.__cause__, current.__context__)
        pending.extend(error for error in carried if isinstance(error, BaseException))


def is_transient(error: BaseException) -> bool:
    """Returns whether the chain contains an error of a busy or locked SQLite database."""
    return any(_is_lock_error(link) for link in chain(error))


def _is_lock_error(error: BaseException) -> bool:
    if isinstance(error, sqlite3.Error) and (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _CODES:
        return True
    text = str(error).lower()
    return any(message in text for message in _MESSAGES)


def is_unique_violation(error: BaseException) -> bool:
    """Returns whether the chain contains SQLSTATE 23505 or one of SQLite's codes for it."""
    return any(
        getattr(link, "sqlstate", None) == "23505" or getattr(link, "sqlite_errorcode", None) in _UNIQUE
        for link in chain(error)
    )


async def with_retries(
    policy: PersistenceRetryPolicy, what: str, run_id: str, operation: Callable[[], Awaitable[T]]
) -> T:
    """Calls `operation` until it returns. Raises its error if that is not transient, or the attempts are used
    up. `what`: name of the operation, for logs."""
    delay = min(policy.initial_delay, policy.max_delay)
    attempt = 1
    while True:
        try:
            return await operation()
        except Exception as error:
            if attempt >= policy.max_attempts or not is_transient(error):
                raise
            logger.warning(
                "%s of run %r failed and is retried (attempt %d of %d): %s",
                what,
                run_id,
                attempt,
                policy.max_attempts,
                error,
            )
        if delay > 0:
            await asyncio.sleep(delay)
        delay = min(policy.max_delay, delay * policy.backoff_factor)
        attempt += 1
