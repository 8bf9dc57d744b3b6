"""Retries calls while the store is unavailable for a moment, within the time budget of their caller."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from coordinator.errors import OutboxFull, StoreUnavailable

T = TypeVar("T")

FIRST_PAUSE, LAST_PAUSE = 0.05, 0.5  # s


class Patience:
    """A time budget of `seconds`, which begins when the object is created. `over()` returns whether further
    attempts are pointless."""

    __slots__ = ("_loop", "_over", "_until", "failed")

    def __init__(self, seconds: float, over: Callable[[], bool]) -> None:
        self._loop, self._over = asyncio.get_running_loop(), over
        self._until = self._loop.time() + seconds
        # Attempts that raised StoreUnavailable. Each of them may have been committed.
        self.failed = 0

    async def attempt(self, call: Callable[[], Awaitable[T]]) -> T:
        """Returns the result of `call`, which is repeated and so must be idempotent. Raises its errors;
        StoreUnavailable only if the budget does not last for another attempt. An attempt in flight is not
        cut short."""
        pause = FIRST_PAUSE
        while True:
            try:
                return await call()
            except OutboxFull:
                raise
            except StoreUnavailable:
                self.failed += 1
                if self._over() or self._loop.time() + pause > self._until:
                    raise
            await asyncio.sleep(pause)
            pause = min(LAST_PAUSE, pause * 2)
