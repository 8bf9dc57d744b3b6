"""Expiry: removes threads whose time to live has passed, temporary ones among them, and stored events."""

from __future__ import annotations

import asyncio
import logging
import time

from coordinator.event_log import EventLog
from coordinator.runs.registry import Registry
from coordinator.workers.loops import every
from stores.catalogue import CatalogueStore
from stores.events import EventStore
from stores.tasks import begin_soon

logger = logging.getLogger(__name__)

BATCH = 100
"""Threads removed in one transaction, for which a cancel waits at most."""
EVENTS = 500
"""Events removed in one transaction."""
BOUND_EVERY = 60.0
"""Seconds between two looks at how much all logs have: that reads a row of each."""


class Expiry:
    """Looks at a varying interval. Every worker does: two at once do each other no harm, and none has to be
    the one that is alive. Where nothing has expired, a look is one read."""

    def __init__(
        self,
        store: CatalogueStore,
        registry: Registry,
        event_log: EventLog,
        *,
        interval: float,
        jitter: float,
        max_event_bytes: int,
        keep_temporary: float,
    ) -> None:
        self._events = store if isinstance(store, EventStore) else None
        self._max_event_bytes, self._bounded_at = max_event_bytes, float("-inf")
        self._store, self._registry, self._event_log = store, registry, event_log
        self._interval, self._jitter = interval, jitter
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self.temporary_ms = round(keep_temporary * 1000)
        """The time to live of a temporary thread."""

    def begin(self) -> None:
        """Idempotent. At the first registration where others share the store, else with the first thread
        that will expire."""
        if self._task is None and not self._closed:
            self._task = begin_soon(every(lambda: self._interval, self._jitter, self.sweep, asyncio.Event()))

    async def sweep(self) -> None:
        """Between two transactions it rests for as long as the last one took. Raises StoreUnavailable."""
        self._registry.evict()
        while await self._store.has_expired_threads():
            began = time.monotonic()
            removed = await self._store.expire_threads(limit=BATCH)
            for thread in removed:
                for run_id in thread.run_ids:
                    self._registry.removed(run_id)
                    self._event_log.remove(thread.thread_id, run_id)
            if not removed:
                return
            logger.debug("Removed %d expired threads", len(removed))
            await asyncio.sleep(time.monotonic() - began)
        if self._events is not None:
            await self._expire_events(self._events)

    async def _expire_events(self, store: EventStore) -> None:
        while True:
            began = time.monotonic()
            bound = began - self._bounded_at > BOUND_EVERY
            limit = self._max_event_bytes if bound else None
            removed = await store.expire_events(limit=EVENTS, max_bytes=limit)
            if bound:
                self._bounded_at = began
            if removed < EVENTS:
                return
            await asyncio.sleep(time.monotonic() - began)

    async def stop(self) -> None:
        """For good. Idempotent."""
        self._closed = True
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))
