"""Writes that must arrive although their caller has gone away or the store has failed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")

MOST = 10_000
FIRST_DELAY, LAST_DELAY = 0.1, 5.0  # s


def is_cancelled(error: BaseException) -> bool:
    """Was this task told to stop? A store may raise CancelledError by itself: that is a failed write."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


class Outbox:
    """Best effort towards the caller, and not lost: what failed is owed, and repeated until it is
    written or `aclose` gives up on it. One write is owed per key: the newest says it all."""

    def __init__(self) -> None:
        self._under_way: set[asyncio.Task[Any]] = set()
        self._owed: dict[str, Callable[[], Awaitable[object]]] = {}
        self._repeating: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._owed)

    def post(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return task

    async def carry(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for `work`, which goes on to its end even if the caller is cancelled meanwhile."""
        return await asyncio.shield(self.post(work))

    def owe(self, key: str, write: Callable[[], Awaitable[object]]) -> None:
        """Repeat `write` until it returns."""
        if key not in self._owed and len(self._owed) >= MOST:
            lost = next(iter(self._owed))
            del self._owed[lost]
            logger.error("%d writes are owed to the store; the one of %s is given up", MOST, lost)
        self._owed[key] = write
        if self._repeating is None or self._repeating.done():
            self._repeating = asyncio.get_running_loop().create_task(self._repeat())

    def settle(self, key: str) -> None:
        """A newer write of the same has arrived, or may not be made any more."""
        self._owed.pop(key, None)

    async def _repeat(self) -> None:
        delay = FIRST_DELAY
        while self._owed:
            await asyncio.sleep(delay)
            delay = min(LAST_DELAY, delay * 2)
            await self._try_all()

    async def _try_all(self) -> None:
        for key, write in tuple(self._owed.items()):
            if self._owed.get(key) is not write:
                continue
            try:
                await write()
            except (Exception, asyncio.CancelledError) as error:
                if is_cancelled(error):
                    raise
                logger.warning("%s is still owed to the store: %r", key, error)
            else:
                if self._owed.get(key) is write:
                    del self._owed[key]

    async def aclose(self, within: float = 5.0) -> None:
        """Let what is under way end, try what is owed once more, then give up. Idempotent."""
        if self._repeating is not None:
            self._repeating.cancel()
            await asyncio.wait((self._repeating,))
            self._repeating = None
        if self._under_way:
            await asyncio.wait(tuple(self._under_way), timeout=within)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._try_all(), within)
        for key in self._owed:
            logger.error("%s could not be written before the store was closed", key)
        self._owed.clear()
