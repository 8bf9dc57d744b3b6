"""The runs that are followed on this worker: their removal is postponed while they are followed."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable

from coordinator.errors import CoordinatorError
from stores.events import EventStore
from stores.tasks import begin_soon

logger = logging.getLogger(__name__)

_LONGEST_PERIOD, _SHORTEST_PERIOD = 2.0, 0.05  # s
_PERIODS_KEPT = 3
"""Number of periods for which one renewal keeps a run."""


class Audience:
    """A settled run is removed with its thread when the thread's TTL has passed; for a temporary thread that
    is a few seconds after the run. While a follower reads the run on any worker, that worker extends the TTL.
    `keep`: the shortest TTL (s). `lives(run_id)` returns whether the run is one of this worker and not
    settled."""

    def __init__(self, store: object, lives: Callable[[str], bool], *, keep: float) -> None:
        self._store = store if isinstance(store, EventStore) else None
        self._lives = lives
        self._period = min(_LONGEST_PERIOD, max(_SHORTEST_PERIOD, keep / _PERIODS_KEPT))
        self._followed = Counter[str]()
        self._renewing: asyncio.Task[None] | None = None
        self._closed = False

    def has(self, run_id: str) -> bool:
        return run_id in self._followed

    def join(self, run_id: str) -> None:
        """The run is followed from now on, by one follower more. `leave` ends it."""
        self._followed[run_id] += 1
        if self._renewing is None and self._store is not None and not self._closed:
            self._renewing = begin_soon(self._renew(self._store), name="extending the TTL of followed runs")

    def leave(self, run_id: str) -> None:
        self._followed[run_id] -= 1
        if not self._followed[run_id]:
            del self._followed[run_id]

    def close(self) -> None:
        """Ends the renewals; none is started afterwards. Idempotent."""
        self._closed = True
        if self._renewing is not None:
            self._renewing.cancel()

    async def _renew(self, store: EventStore) -> None:
        """Renews once in each period. Ends when no run is followed; the next follower starts it again."""
        try:
            while True:
                await asyncio.sleep(self._period)
                if not self._followed:
                    return
                if run_ids := [run_id for run_id in self._followed if not self._lives(run_id)]:
                    await self._keep(store, run_ids)
        finally:
            self._renewing = None

    async def _keep(self, store: EventStore, run_ids: list[str]) -> None:
        try:
            await store.follow_runs(run_ids, seconds=self._period * _PERIODS_KEPT, logs=False)
        except CoordinatorError as error:
            logger.debug("The TTL of %d followed runs could not be extended: %s", len(run_ids), error)
