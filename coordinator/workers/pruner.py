"""The pruner: removes what is older than it has to be kept, a bounded piece at a time."""

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
"""Rows looked at in one transaction: about 10 ms of the write lock, for which a cancel waits at most."""


async def prune(
    store: PruningStore,
    keep: Retention,
    *,
    dry_run: bool = False,
    progress: Callable[[Pruned], None] = lambda _: None,
) -> Pruned:
    """One pass; answers what was removed, or with `dry_run` would be. Between two transactions it rests
    for as long as the last one took, so that at most half of the store's time is its. Whoever stops it
    leaves whole transactions behind. Raises StoreUnavailable."""
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
    """Prunes at a varying interval, from the first registration on. Every worker does: two at once do
    each other no harm, and none has to be the one that is alive."""

    def __init__(self, store: object, keep: Retention, *, interval: float, jitter: float) -> None:
        self._store, self._keep, self._interval, self._jitter = store, keep, interval, jitter
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def begin(self) -> None:
        """Idempotent; nothing where there is nothing to prune or the store cannot."""
        if self._task is None and not self._closed and self._keep.anything:
            if self._keep.runs is not None and isinstance(self._store, PruningStore):
                logger.info(
                    "Runs are removed from the store %.4g days after they settled, but for the last run of"
                    " each thread. COORDINATOR_KEEP_RUNS sets the time in seconds; none keeps all runs.",
                    self._keep.runs / 86_400,
                )
            self._task = begin_soon(every(lambda: self._interval, self._jitter, self._pass, asyncio.Event()))

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
        """For good. Idempotent."""
        self._closed = True
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))
