"""An event that is set once and stays set."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Latch:
    """As asyncio.Event without `clear`. Every run has two of them, and most are never awaited, so a latch
    without waiters holds only a flag. An Event has a deque, which would double the size of long-lived
    records and the duration of full garbage collections."""

    __slots__ = ("_set", "_subscribed", "_waiters")

    def __init__(self) -> None:
        self._set = False
        self._waiters: list[asyncio.Future[None]] | None = None
        self._subscribed: asyncio.Future[None] | None = None
        """With the callbacks."""

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self) -> None:
        """Returns when the latch is set. The cancellation of one waiter does not affect the others."""
        if self._set:
            return
        waiter = self._waiter()
        try:
            await waiter
        except asyncio.CancelledError:
            if self._waiters is not None:
                self._waiters.remove(waiter)
            raise

    def subscribe(self, callback: Callable[[asyncio.Future[None]], object]) -> None:
        """Calls `callback` once the latch is set, in a later turn of the loop."""
        if self._subscribed is None:
            self._subscribed = self._waiter()
            if self._set:
                self._subscribed.set_result(None)
        self._subscribed.add_done_callback(callback)

    def unsubscribe(self, callback: Callable[[asyncio.Future[None]], object]) -> None:
        """Removes a callback that was not called yet. Idempotent."""
        if self._subscribed is not None:
            self._subscribed.remove_done_callback(callback)

    def _waiter(self) -> asyncio.Future[None]:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not self._set:
            self._waiters = self._waiters or []
            self._waiters.append(waiter)
        return waiter
