"""Expiry: removes threads whose time to live has passed, temporary ones among them."""

from __future__ import annotations

import asyncio
import logging
import time

from coordinator.runs.registry import Registry
from stores.catalogue import CatalogueStore

logger = logging.getLogger(__name__)

BATCH = 100
"""Threads removed in one transaction, for which a cancel waits at most."""


class Expiry:
    """Every worker looks, at its sweep's interval: two at once do each other no harm, and none has to be
    the one that is alive. Where nothing has expired, a look is one read."""

    def __init__(self, store: CatalogueStore, registry: Registry) -> None:
        self._store, self._registry = store, registry

    async def sweep(self) -> None:
        """Between two transactions it rests for as long as the last one took. Raises StoreUnavailable."""
        self._registry.evict()
        while await self._store.has_expired_threads():
            began = time.monotonic()
            removed = await self._store.expire_threads(limit=BATCH)
            for thread in removed:
                for run_id in thread.run_ids:
                    self._registry.drop(run_id)
            if removed:
                logger.debug("Removed %d expired threads", len(removed))
            await asyncio.sleep(time.monotonic() - began)
