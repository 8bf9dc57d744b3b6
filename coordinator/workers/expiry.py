"""Expiry: removes threads whose TTL has passed, including temporary threads, the state that removed threads
have left in storages of assistants, and expired events."""

from __future__ import annotations

import asyncio
import logging
import time

from coordinator.assistants.removal import StateRemoval
from coordinator.event_log import EventLog
from coordinator.runs.registry import Registry
from coordinator.workers.loops import every
from stores.catalogue import CatalogueStore
from stores.events import EventStore
from stores.tasks import begin_soon

logger = logging.getLogger(__name__)

BATCH = 100
"""Threads removed in one transaction. A cancel waits for at most one such transaction."""
EVENTS = 500
"""Events removed in one transaction."""
BOUND_EVERY = 60.0
"""Seconds between two checks of the total size of all logs: a check reads one row for each log."""


class Expiry:
    """Sweeps at a jittered interval. Every worker does so: concurrent sweeps are harmless, and no leader is
    needed. A sweep that has nothing to remove is one read."""

    def __init__(
        self,
        store: CatalogueStore,
        registry: Registry,
        event_log: EventLog,
        removal: StateRemoval,
        *,
        interval: float,
        jitter: float,
        max_event_bytes: int,
        keep_temporary: float,
    ) -> None:
        self._events = store if isinstance(store, EventStore) else None
        self._max_event_bytes, self._bounded_at = max_event_bytes, float("-inf")
        self._store, self._registry, self._event_log, self._removal = store, registry, event_log, removal
        self._interval, self._jitter = interval, jitter
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self.temporary_ms = round(keep_temporary * 1000)
        """The time to live of a temporary thread."""

    def begin(self) -> None:
        """Starts the loop. Idempotent. Called at the first registration if other processes share the store,
        else at the first thread that has a TTL."""
        if self._task is None and not self._closed:
            self._task = begin_soon(
                every(
                    lambda: self._interval,
                    self._jitter,
                    self.sweep,
                    asyncio.Event(),
                    what="The expiry of threads",
                )
            )

    async def sweep(self) -> None:
        """Removes what has expired. Pauses between two transactions for as long as the last one took, so that
        it uses at most half of the writer's time. Raises StoreUnavailable."""
        self._registry.evict()
        while await self._store.has_expired_threads():
            began = time.monotonic()
            removed = await self._store.expire_threads(limit=BATCH)
            for thread in removed:
                for run_id in thread.run_ids:
                    self._registry.removed(run_id)
                    self._event_log.remove(thread.thread_id, run_id)
            if not removed:
                break
            logger.debug("Removed %d expired threads", len(removed))
            await asyncio.sleep(time.monotonic() - began)
        await self._removal.sweep()
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
        """Ends the loop; `begin` has no effect afterwards. Idempotent."""
        self._closed = True
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))
