"""Warns of waiting runs that no live worker executes."""

from __future__ import annotations

import logging
from collections.abc import Callable

from coordinator.clock import boottime
from coordinator.runs.unclaimed import reason_of
from stores.base import AdmissionStore

logger = logging.getLogger(__name__)

REPEAT = 60.0  # s


class UnclaimedRuns:
    """For a worker that only admits: its runs wait for others. `examine` is called after each sweep."""

    def __init__(
        self, store: AdmissionStore, *, admit_only: bool, clock: Callable[[], float] = boottime
    ) -> None:
        self._store, self._admit_only, self._clock = store, admit_only, clock
        self._warned: dict[str | None, float] = {}
        """When the last warning for an assistant was logged, on `clock`."""
        self.reasons: tuple[str, ...] = ()
        """A sentence for each assistant whose runs no live worker executes, by the last examination."""

    async def examine(self) -> None:
        """Logs a warning for each such assistant, at most one a minute, and once that a worker executes its
        runs again. Raises StoreUnavailable."""
        if not self._admit_only:
            return
        waiting = {one.assistant_id: reason_of(one) for one in await self._store.unclaimed()}
        self.reasons = tuple(waiting.values())
        now = self._clock()
        for assistant, reason in waiting.items():
            if now - self._warned.get(assistant, -REPEAT) >= REPEAT:
                self._warned[assistant] = now
                logger.warning("%s", reason)
        for assistant in self._warned.keys() - waiting.keys():
            del self._warned[assistant]
            logger.info("No run waits for a worker that executes assistant %r any more", assistant)
