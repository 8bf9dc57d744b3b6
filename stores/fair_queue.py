"""A semaphore with a queue that is fair to users."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Hashable
from contextlib import asynccontextmanager

from stores.errors import StoreUnavailable

PATIENCE = 3
"""A caller waits at most this many times the duration limit of one holder, so that it gets a place after two
holders that use all of theirs."""


class FairQueue:
    """Admits `places` callers at the same time; others wait for at most `within` s. Waiting users are served
    round robin, independently of the number of their requests: a user that was just served is last. Belongs
    to one event loop. `what`: the kind of work, for messages."""

    def __init__(self, places: int, *, within: float, what: str) -> None:
        self._free, self._within, self._what = places, within, what
        self._waiting: OrderedDict[Hashable, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def place(self, user: Hashable) -> AsyncGenerator[None]:
        """Holds a place within the block. Raises StoreUnavailable if none is free within the limit."""
        await self._acquire(user)
        try:
            yield
        finally:
            self._release(user)

    async def _acquire(self, user: Hashable) -> None:
        if self._free and not self._waiting:
            self._free -= 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(user, deque()).append(place)
        try:
            async with asyncio.timeout(self._within):
                await place
        except TimeoutError:
            self._withdraw(user, place)
            raise StoreUnavailable(
                f"other {self._what} occupied all places for {self._within:g} s", hint="Try again."
            ) from None
        except BaseException:
            self._withdraw(user, place)
            raise

    def _withdraw(self, user: Hashable, place: asyncio.Future[None]) -> None:
        """Leaves the queue, and releases a place that was acquired in the same turn of the loop."""
        if place.done() and not place.cancelled():
            self._release(user)
            return
        waiting = self._waiting.get(user)
        if waiting is not None and place in waiting:
            waiting.remove(place)
            if not waiting:
                del self._waiting[user]

    def _release(self, user: Hashable) -> None:
        """Passes the place of `user` to the first waiter of the next user."""
        if user in self._waiting:
            self._waiting.move_to_end(user)
        while self._waiting:
            user, waiting = self._waiting.popitem(last=False)
            place = waiting.popleft()
            if waiting:
                self._waiting[user] = waiting  # behind the other users
            if not place.done():  # else its caller was cancelled, and has not withdrawn yet
                place.set_result(None)
                return
        self._free += 1
