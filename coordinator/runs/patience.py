"""Trying again what meets a store that is away for a moment, for callers who wait for the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from coordinator.errors import OutboxFull, StoreUnavailable

T = TypeVar("T")

FIRST_PAUSE, LAST_PAUSE = 0.05, 0.5  # s


class Patience:
    """One call's budget of `seconds`, which begins when this is made. `over` says that nothing is worth
    waiting for any more."""

    __slots__ = ("_loop", "_over", "_until", "failed")

    def __init__(self, seconds: float, over: Callable[[], bool]) -> None:
        self._loop, self._over = asyncio.get_running_loop(), over
        self._until = self._loop.time() + seconds
        # How many attempts met StoreUnavailable. One of them may have been written all the same.
        self.failed = 0

    async def attempt(self, call: Callable[[], Awaitable[T]]) -> T:
        """What `call` answers; it is made again, so it has to be re-runnable. Raises what it raises,
        StoreUnavailable only where the budget does not last for another attempt. An attempt that is under
        way is not cut short."""
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
