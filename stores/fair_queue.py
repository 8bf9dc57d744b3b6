"""A queue for what only a few may do at once, fair to users."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Hashable
from contextlib import asynccontextmanager

from stores.errors import StoreUnavailable

PATIENCE = 3
"""How many times as long as one may take its turn is waited for: two others that take all of it do not keep
a third from it."""


class FairQueue:
    """`places` at once, for at most `within` s of waiting. The users that wait are served round robin,
    however many requests each has; one that has just been served comes last. Of one event loop. `what` they
    do, for people."""

    def __init__(self, places: int, *, within: float, what: str) -> None:
        self._free, self._within, self._what = places, within, what
        self._waiting: OrderedDict[Hashable, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def place(self, user: Hashable) -> AsyncGenerator[None]:
        """A place for the block. Raises StoreUnavailable where there is none in time."""
        await self._take(user)
        try:
            yield
        finally:
            self._pass_on(user)

    async def _take(self, user: Hashable) -> None:
        if self._free and not self._waiting:
            self._free -= 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(user, deque()).append(place)
        try:
            async with asyncio.timeout(self._within):
                await place
        except TimeoutError:
            self._leave(user, place)
            raise StoreUnavailable(
                f"other {self._what} took all the time for {self._within:g} s", hint="Try again."
            ) from None
        except BaseException:
            self._leave(user, place)
            raise

    def _leave(self, user: Hashable, place: asyncio.Future[None]) -> None:
        """Without having used it, be it that it came just now."""
        if place.done() and not place.cancelled():
            self._pass_on(user)
            return
        waiting = self._waiting.get(user)
        if waiting is not None and place in waiting:
            waiting.remove(place)
            if not waiting:
                del self._waiting[user]

    def _pass_on(self, user: Hashable) -> None:
        """From this user."""
        if user in self._waiting:
            self._waiting.move_to_end(user)
        while self._waiting:
            user, waiting = self._waiting.popitem(last=False)
            place = waiting.popleft()
            if waiting:
                self._waiting[user] = waiting  # behind the others
            if not place.done():  # else it was cancelled, and has not left yet
                place.set_result(None)
                return
        self._free += 1
