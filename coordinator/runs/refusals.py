"""Ends of runs that the store refuses for reasons that no code here foresees."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from coordinator.errors import LeaseLost, StaleFence, StoreReplaced, StoreUnavailable
from coordinator.runs.entry import Entry
from coordinator.runs.outcomes import text_of

logger = logging.getLogger(__name__)

AGAIN = 0.2  # s; between two attempts, during which the thread is held
FORESEEN = (LeaseLost, StaleFence, StoreReplaced, StoreUnavailable)
"""What a store may say to an end for reasons that are known."""


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

    async def overcome(self, entry: Entry, end: Callable[[Entry], Awaitable[None]], error: Exception) -> None:
        """`end` has failed with `error`. Call it again until it returns or raises one of FORESEEN. A
        caller that settles `entry` in its own steps does not wait: there StoreUnavailable is raised."""
        while True:
            self._refused(entry, error)
            await asyncio.sleep(AGAIN)  # nothing tells when a store has changed its mind
            try:
                return await end(entry)
            except FORESEEN:
                raise
            except Exception as again:  # noqa: BLE001 - it is tried again
                error = again

    def forget(self, entry: Entry) -> None:
        """Its end is written, or is not its worker's to write any more."""
        self._since.pop(entry.record.run_id, None)

    def _refused(self, entry: Entry, error: Exception) -> None:
        run_id = entry.record.run_id
        if run_id not in self._since:
            self._since[run_id] = entry.work.clocks.boottime()
            logger.error("The store refuses the end of run %r; it is tried again", run_id, exc_info=error)
        if not entry.settled_by_job:
            raise StoreUnavailable(text_of(error)) from error
