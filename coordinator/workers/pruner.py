"""The pruner: removes rows that are older than their retention, in bounded transactions."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from coordinator.workers.loops import every
from stores.pruning import PruneCursor, Pruned, PruningStore, Retention
from stores.tasks import begin_soon

logger = logging.getLogger(__name__)

BATCH = 500
"""Rows examined in one transaction. It takes about 10 ms, which a cancel may have to wait."""


async def prune(
    store: PruningStore,
    keep: Retention,
    *,
    dry_run: bool = False,
    progress: Callable[[Pruned], None] = lambda _: None,
) -> Pruned:
    """Makes one pass, and returns what was removed, or with `dry_run` would be. Pauses between two
    transactions for as long as the last one took, so that it uses at most half of the writer's time. Each
    transaction is atomic: a pass may be cancelled at any await. Raises StoreUnavailable."""
    removed, cursor = Pruned(), PruneCursor("runs")
    while True:
        began = time.monotonic()
        step = await store.prune(keep, cursor=cursor, limit=BATCH, dry_run=dry_run)
        removed = removed.plus(step.pruned)
        progress(removed)
        if step.cursor is None:
            return removed
        cursor = step.cursor
        await asyncio.sleep(0 if dry_run else time.monotonic() - began)


class Pruner:
    """Prunes at a jittered interval, from the first registration on. Every worker does so: concurrent passes
    are harmless, and no leader is needed."""

    def __init__(self, store: object, keep: Retention, *, interval: float, jitter: float) -> None:
        self._store, self._keep, self._interval, self._jitter = store, keep, interval, jitter
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def begin(self) -> None:
        """Starts the loop. Idempotent. No effect without a retention."""
        if self._task is None and not self._closed and self._keep.anything:
            if self._keep.runs is not None and isinstance(self._store, PruningStore):
                logger.info(
                    "Runs are removed from the store %.4g days after they settled, except the last run of"
                    " each thread. COORDINATOR_KEEP_RUNS sets the time in seconds; none keeps all runs.",
                    self._keep.runs / 86_400,
                )
            self._task = begin_soon(
                every(
                    lambda: self._interval,
                    self._jitter,
                    self._pass,
                    asyncio.Event(),
                    what="The removal of old runs",
                )
            )

    async def _pass(self) -> None:
        if not isinstance(self._store, PruningStore):
            return
        removed = await prune(self._store, self._keep)
        if any(removed):
            logger.info(
                "Pruned %d runs, %d transitions, %d workers and %d webhooks",
                *removed,
            )

    async def stop(self) -> None:
        """Ends the loop; `begin` has no effect afterwards. Idempotent."""
        self._closed = True
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))
