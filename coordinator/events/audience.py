"""Who follows runs here, so that none of these runs is removed under its followers."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager

from coordinator.errors import CoordinatorError
from stores.events import EventStore
from stores.tasks import begin_soon

logger = logging.getLogger(__name__)

_LONGEST_PERIOD, _SHORTEST_PERIOD = 2.0, 0.05  # s
_RENEWED = 3
"""So many periods long a run is kept by one renewal."""


class Audience:
    """A run that has settled is removed with its thread once the thread's time to live is over, a few seconds
    after its end where the thread is temporary. While somebody reads it, that time is moved on, by whatever
    worker he reads it from. `keep` (s) is the shortest such time; `lives(run_id)`: is the run of this worker,
    and not settled?"""

    def __init__(self, store: object, lives: Callable[[str], bool], *, keep: float) -> None:
        self._store = store if isinstance(store, EventStore) else None
        self._lives = lives
        self._period = min(_LONGEST_PERIOD, max(_SHORTEST_PERIOD, keep / _RENEWED))
        self._followed = Counter[str]()
        self._renewing: asyncio.Task[None] | None = None
        self._closed = False

    def has(self, run_id: str) -> bool:
        return run_id in self._followed

    @contextmanager
    def listening(self, run_id: str) -> Generator[None]:
        self._followed[run_id] += 1
        if self._renewing is None and self._store is not None and not self._closed:
            self._renewing = begin_soon(self._renew(self._store), name="keeping runs that are followed")
        try:
            yield
        finally:
            self._followed[run_id] -= 1
            if not self._followed[run_id]:
                del self._followed[run_id]

    def close(self) -> None:
        """For good. Idempotent."""
        self._closed = True
        if self._renewing is not None:
            self._renewing.cancel()

    async def _renew(self, store: EventStore) -> None:
        """Ends when nobody follows anything: a follower begins it anew."""
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
            await store.follow_runs(run_ids, seconds=self._period * _RENEWED, logs=False)
        except CoordinatorError as error:
            logger.debug("Runs that are followed are not renewed: %s", error)
