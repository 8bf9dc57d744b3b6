"""Look-ups of names: in threads of their own, of which no user has more than a share.

The operating system cannot be told to stop a look-up. Its thread is taken until the resolver gives up, which
may be long after the attempt that asked has timed out; so it is counted until then.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from coordinator.webhooks.lanes import Full

THREADS = 8
PER_USER = 2
PATIENCE = 5.0
"""s; how long a look-up may wait for a thread. Less than what a claim lasts beyond its attempt."""

LookUp = Callable[[str, int], list[str]]
"""The addresses of a name, from a thread. Raises OSError."""


def look_up(host: str, port: int) -> list[str]:
    """Asks the operating system."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(sockaddr[0]) for *_, sockaddr in found]


def nothing() -> None:
    """Nobody wants to know when a look-up begins."""


class Lookups:
    """For one event loop. A caller without a user has no share: it may take all threads."""

    def __init__(
        self,
        look_up: LookUp = look_up,
        *,
        threads: int = THREADS,
        per_user: int = PER_USER,
        patience: float = PATIENCE,
    ) -> None:
        self._look_up, self._per_user, self._patience = look_up, per_user, patience
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="webhook-lookup")
        self._free = threads
        self._taken: Counter[str | None] = Counter()
        self._waiting: deque[tuple[str | None, asyncio.Future[None]]] = deque()

    async def addresses(
        self, host: str, port: int, *, user_id: str | None = None, begun: Callable[[], object] = nothing
    ) -> list[str]:
        """`begun` is called when a thread has taken it up. Raises OSError, UnicodeError; Full where none did
        for PATIENCE."""
        await self._turn(user_id)
        loop = asyncio.get_running_loop()
        try:
            found = self._threads.submit(self._look_up, host, port)
        except BaseException:
            self._give_back(user_id)
            raise
        found.add_done_callback(lambda _: self._ended(loop, user_id))
        begun()
        return await asyncio.wrap_future(found)

    def _ended(self, loop: asyncio.AbstractEventLoop, user_id: str | None) -> None:
        """In the thread of the look-up."""
        try:
            loop.call_soon_threadsafe(self._give_back, user_id)
        except RuntimeError:  # the loop is closed, and nobody waits in it
            self._give_back(user_id)

    async def _turn(self, user_id: str | None) -> None:
        if self._may(user_id):
            self._take(user_id)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place = user_id, turn
        self._waiting.append(place)
        try:
            async with asyncio.timeout(self._patience):
                await turn
        except TimeoutError:
            self._leave(place)
            raise Full(self._patience) from None
        except BaseException:
            self._leave(place)
            raise

    def _leave(self, place: tuple[str | None, asyncio.Future[None]]) -> None:
        user_id, turn = place
        if turn.cancelled():
            self._waiting.remove(place)
        else:  # it was given a thread at this very moment
            self._give_back(user_id)

    def _may(self, user_id: str | None) -> bool:
        return self._free > 0 and (user_id is None or self._taken[user_id] < self._per_user)

    def _take(self, user_id: str | None) -> None:
        self._free -= 1
        self._taken[user_id] += 1

    def _give_back(self, user_id: str | None) -> None:
        """To the first that waits and may have it."""
        self._free += 1
        self._taken[user_id] -= 1
        if not self._taken[user_id]:
            del self._taken[user_id]
        for place in self._waiting:
            other, turn = place
            if self._may(other) and not turn.done():
                self._waiting.remove(place)
                self._take(other)
                turn.set_result(None)
                return
