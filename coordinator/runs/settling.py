"""Runs of this worker that are being settled, by thread."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from stores.tasks import AnyFuture

WAITED_FOR = 0.25
"""Seconds for which other calls wait for a run that is being settled. Then they read the store."""


class Settling:
    """A run whose task has ended is terminal in memory before it is in its row. Callers on its worker wait
    until the two agree."""

    def __init__(self) -> None:
        self._futures: dict[str, set[AnyFuture]] = {}
        self._supervised: dict[str, set[asyncio.Task[object]]] = {}

    def add(self, thread_id: str, future: AnyFuture) -> None:
        """Adds a run whose task has ended; `future` settles it."""
        futures = self._futures.setdefault(thread_id, set())
        futures.add(future)
        future.add_done_callback(lambda done: _discard(self._futures, thread_id, done))

    def supervise(self, thread_id: str, task: asyncio.Task[object]) -> None:
        """Adds a task whose end settles its run."""
        self._supervised.setdefault(thread_id, set()).add(task)
        task.add_done_callback(lambda done: _discard(self._supervised, thread_id, done))

    async def over(self, thread_id: str) -> None:
        """Returns when no run of this worker is being settled on the thread, after `WAITED_FOR` at the
        latest."""
        if any(task.done() for task in self._supervised.get(thread_id, ())):
            await asyncio.sleep(0)
        if thread_id in self._futures:
            with suppress(TimeoutError):
                async with asyncio.timeout(WAITED_FOR):
                    while (futures := self._futures.get(thread_id)) is not None:
                        await asyncio.wait(tuple(futures))


# Any: sets of futures and of tasks.
def _discard(kept: dict[str, set[Any]], thread_id: str, done: AnyFuture) -> None:
    futures = kept.get(thread_id, set())
    futures.discard(done)
    if not futures:
        kept.pop(thread_id, None)
