"""An event that is set once and stays set."""

from __future__ import annotations

import asyncio


class Latch:
    """As asyncio.Event without `clear`. Every run has two of them, and most are never awaited, so a latch
    without waiters holds only a flag. An Event has a deque, which would double the size of long-lived
    records and the duration of full garbage collections."""

    __slots__ = ("_future", "_set")

    def __init__(self) -> None:
        self._set = False
        self._future: asyncio.Future[None] | None = None

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def wait(self) -> None:
        """Returns when the latch is set. The cancellation of one waiter does not affect the others."""
        if self._set:
            return
        if self._future is None:
            self._future = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._future)
