"""An event that is set once and stays set."""

from __future__ import annotations

import asyncio


class Latch:
    """As asyncio.Event without `clear`. Every run has two and hardly any is ever waited for, so one that
    nobody waits for holds nothing but a flag: an Event brings a deque, which made long-lived records
    twice as big and full garbage collections as much slower."""

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
        """Return at once if it is set, else when it is. A waiter who is cancelled takes no other along."""
        if self._set:
            return
        if self._future is None:
            self._future = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._future)
