"""Ends of runs that the store refuses for unforeseen reasons."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from coordinator.errors import LeaseLost, StaleFence, StoreReplaced, StoreUnavailable
from coordinator.runs.entry import Entry
from coordinator.runs.outcomes import text_of

logger = logging.getLogger(__name__)

AGAIN = 0.2  # s between two attempts; the thread is held meanwhile
FORESEEN = (LeaseLost, StaleFence, StoreReplaced, StoreUnavailable)
"""Errors of the store that have a handler of their own."""


class Refusals:
    """A refused end is retried, like one that meets an unavailable store: until the store accepts it, the
    worker is fenced, or the worker signs off."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._since)

    @property
    def oldest(self) -> float | None:
        """The time of the oldest refusal (s, boottime clock)."""
        return min(self._since.values(), default=None)

    async def overcome(self, entry: Entry, end: Callable[[Entry], Awaitable[None]], error: Exception) -> None:
        """Calls `end`, which has failed with `error`, until it returns or raises one of FORESEEN. If a caller
        settles `entry` in its own steps, raises StoreUnavailable instead of waiting."""
        while True:
            self._refused(entry, error)
            await asyncio.sleep(AGAIN)  # no event reports that the store would accept it
            try:
                return await end(entry)
            except FORESEEN:
                raise
            except Exception as again:  # noqa: BLE001 - it is retried
                error = again

    def forget(self, entry: Entry) -> None:
        """Removes the entry: its end is written, or not this worker's to write any more."""
        self._since.pop(entry.record.run_id, None)

    def _refused(self, entry: Entry, error: Exception) -> None:
        run_id = entry.record.run_id
        if run_id not in self._since:
            self._since[run_id] = entry.work.clocks.boottime()
            logger.error(
                "The store refuses the end of run %r; it is retried every %g s", run_id, AGAIN, exc_info=error
            )
        if not entry.settled_by_job:
            raise StoreUnavailable(text_of(error)) from error
