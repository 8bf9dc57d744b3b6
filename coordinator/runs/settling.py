"""Which runs of this worker are being settled, by thread, and how long others wait for that."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

WAITED_FOR = 0.25
"""Seconds for which others wait for a run that is being settled. Then the store answers for it."""


class Settling:
    """A run whose task is over shows as ended to its own worker's callers before its row does: they wait here
    until the two agree."""

    def __init__(self) -> None:
        self._futures: dict[str, set[asyncio.Future[Any]]] = {}
        self._supervised: dict[str, set[asyncio.Task[Any]]] = {}

    def add(self, thread_id: str, future: asyncio.Future[Any]) -> None:
        """A run's task is over and `future` settles it."""
        futures = self._futures.setdefault(thread_id, set())
        futures.add(future)
        future.add_done_callback(lambda done: _discard(self._futures, thread_id, done))

    def supervise(self, thread_id: str, task: asyncio.Task[Any]) -> None:
        """When this task is over, its run may be settled."""
        self._supervised.setdefault(thread_id, set()).add(task)
        task.add_done_callback(lambda done: _discard(self._supervised, thread_id, done))

    async def over(self, thread_id: str) -> None:
        """Return when no run of this worker, whose task is over, is still being settled there; at the
        latest after `WAITED_FOR`."""
        if any(task.done() for task in self._supervised.get(thread_id, ())):
            await asyncio.sleep(0)
        if thread_id in self._futures:
            with suppress(TimeoutError):
                async with asyncio.timeout(WAITED_FOR):
                    while (futures := self._futures.get(thread_id)) is not None:
                        await asyncio.wait(tuple(futures))


def _discard(kept: dict[str, set[Any]], thread_id: str, done: asyncio.Future[Any]) -> None:
    futures = kept.get(thread_id, set())
    futures.discard(done)
    if not futures:
        kept.pop(thread_id, None)
