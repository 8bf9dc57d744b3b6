"""An event that is set once and stays set."""

from __future__ import annotations

import asyncio


class Latch:
    """As asyncio.Event without `clear`. Every run has two of them, and most are never awaited, so a latch
    without waiters holds only a flag. An Event has a deque, which would double the size of long-lived
    records and the duration of full garbage collections."""

    __slots__ = ("_set", "_waiters")

    def __init__(self) -> None:
        self._set = False
        self._waiters: list[asyncio.Future[None]] | None = None

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
        waiters = self._waiters = self._waiters or []
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if not self._set:
                waiters.remove(waiter)
            raise
