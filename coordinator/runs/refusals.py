"""Ends of runs that the store refuses for reasons that no code here foresees."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from coordinator.errors import LeaseLost, StaleFence, StoreReplaced, StoreUnavailable
from coordinator.runs.outcomes import text_of
from coordinator.runs.registry import Entry

logger = logging.getLogger(__name__)

AGAIN = 0.2  # s; between two attempts, during which the thread is held


class Refusals:
    """A refused end is still to be written, like one that meets a store that is away: it is tried again
    until the store takes it, the worker is fenced or the worker leaves."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._since)

    @property
    def oldest(self) -> float | None:
        """When the first of them was refused for the first time, on the boottime clock."""
        return min(self._since.values(), default=None)

    async def overcome(self, entry: Entry, end: Callable[[Entry], Awaitable[None]]) -> None:
        """Call `end` until it returns or raises LeaseLost, StaleFence, StoreReplaced or StoreUnavailable.
        While `entry` is settled inline, any other error is raised as StoreUnavailable after the first
        attempt: the caller does not wait."""
        try:
            while True:
                try:
                    return await end(entry)
                except (LeaseLost, StaleFence, StoreReplaced, StoreUnavailable):
                    raise
                except Exception as error:  # noqa: BLE001 - it is logged, and tried again
                    self._refused(entry, error)
                await asyncio.sleep(AGAIN)  # nothing tells when a store has changed its mind
        finally:
            if self._since and not entry.inline:
                self._since.pop(entry.record.run_id, None)

    def _refused(self, entry: Entry, error: Exception) -> None:
        run_id = entry.record.run_id
        if run_id not in self._since:
            self._since[run_id] = entry.clocks.boottime()
            logger.error("The store refuses the end of run %r; it is tried again", run_id, exc_info=error)
        if entry.inline:
            raise StoreUnavailable(text_of(error)) from error
