"""One retry helper for short writes under transient SQLite pressure; anything else is tried once."""

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
    """Bounded retries. `max_attempts` counts calls; delays are seconds, 0 means no sleep."""

    max_attempts: int = 5
    initial_delay: float = 0.05
    max_delay: float = 1.0
    backoff_factor: float = 2.0


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error and all that it carries: `orig`, `__cause__`, `__context__`, each once."""
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
    """Is SQLite's pressure anywhere in the chain?"""
    return any(_is_pressure(link) for link in chain(error))


def _is_pressure(error: BaseException) -> bool:
    if isinstance(error, sqlite3.Error) and (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _CODES:
        return True
    text = str(error).lower()
    return any(message in text for message in _MESSAGES)


def is_unique_violation(error: BaseException) -> bool:
    """SQLSTATE 23505 or SQLite's codes, anywhere in the chain."""
    return any(
        getattr(link, "sqlstate", None) == "23505" or getattr(link, "sqlite_errorcode", None) in _UNIQUE
        for link in chain(error)
    )


async def with_retries(
    policy: PersistenceRetryPolicy, what: str, run_id: str, operation: Callable[[], Awaitable[T]]
) -> T:
    """Call until it works, the attempts are used up or the error is not transient; raise the last error."""
    delay = min(policy.initial_delay, policy.max_delay)
    attempt = 1
    while True:
        try:
            return await operation()
        except Exception as error:
            if attempt >= policy.max_attempts or not is_transient(error):
                raise
            logger.warning(
                "%s of run %r: attempt %d of %d failed: %s", what, run_id, attempt, policy.max_attempts, error
            )
        if delay > 0:
            await asyncio.sleep(delay)
        delay = min(policy.max_delay, delay * policy.backoff_factor)
        attempt += 1
