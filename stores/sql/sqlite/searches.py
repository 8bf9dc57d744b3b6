"""A search over SQLite: stopped at its deadline, or when its caller no longer waits for it.

SQLite checks every few thousand steps, and so does the comparison of JSON (`contains`), which SQLite cannot
interrupt.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from types import TracebackType
from typing import Self

from stores.errors import SearchTooLong
from stores.sql.statement import OnConnection, P, T

STEPS = 20_000
"""Instructions of SQLite's virtual machine between two checks: about a millisecond."""
WORK, REST = 0.001, 0.001
"""Seconds. While Python compares JSON all other threads of the process wait, so it is done in slices."""

_here = threading.local()


def look() -> None:
    """To be called by long-running code within a search of this thread. Raises InterruptedError where the
    search is over; yields to other threads."""
    search: Search | None = getattr(_here, "search", None)
    if search is not None:
        search.look()


class Search:
    """One search, which may take `longest` s from now on. At the end of its block no caller waits for it any
    more: then it stops, in any thread. `rests`: it yields to other threads meanwhile."""

    def __init__(self, longest: float, *, rests: bool) -> None:
        self._longest, self._rests = longest, rests
        self._abandoned = False
        self._until = time.monotonic() + longest
        self._worked_since = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._abandoned = True

    def run(self, cx: sqlite3.Connection, query: OnConnection[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs the query in this thread. Raises SearchTooLong, and what the query raises."""
        if self._is_over():
            raise SearchTooLong(self._longest)
        self._worked_since = time.monotonic()
        _here.search = self
        cx.set_progress_handler(self._is_over, STEPS)
        try:
            return query(cx, *args, **kwargs)
        except sqlite3.OperationalError as error:
            if self._is_over():
                raise SearchTooLong(self._longest) from error
            raise
        finally:
            cx.set_progress_handler(None, 0)
            _here.search = None

    def look(self) -> None:
        now = time.monotonic()
        if now - self._worked_since < WORK:
            return
        if self._is_over():
            raise InterruptedError
        if self._rests:
            time.sleep(REST)
            now = time.monotonic()
        self._worked_since = now

    def _is_over(self) -> bool:
        return self._abandoned or time.monotonic() > self._until
