"""DNS look-ups in a thread pool of their own, of which one user gets a limited share.

A look-up of the operating system cannot be cancelled: it occupies its thread until the resolver gives up,
which may be long after the attempt has timed out. So it counts against the user's share until then.
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
"""Seconds that a look-up may wait for a thread. Less than the margin of a claim's lease over an attempt."""

LookUp = Callable[[str, int], list[str]]
"""Returns the addresses of a name. Called in a thread. Raises OSError."""


def look_up(host: str, port: int) -> list[str]:
    """Returns the addresses that the operating system's resolver has for `host`. Blocks. Raises OSError."""
    results = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(sockaddr[0]) for *_, sockaddr in results]


def nothing() -> None:
    """The default of `begun`."""


class Lookups:
    """Belongs to one event loop. `patience`: see PATIENCE. A caller without a user may occupy all threads."""

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
        """Returns the addresses of `host`. `begun` is called when a thread starts the look-up. Raises
        OSError, UnicodeError, and Full if no thread was available within `patience`."""
        await self._acquire(user_id)
        loop = asyncio.get_running_loop()
        try:
            lookup = self._threads.submit(self._look_up, host, port)
        except BaseException:
            self._release(user_id)
            raise
        lookup.add_done_callback(lambda _: self._ended(loop, user_id))
        begun()
        return await asyncio.wrap_future(lookup)

    def _ended(self, loop: asyncio.AbstractEventLoop, user_id: str | None) -> None:
        """Called in the thread of the look-up."""
        try:
            loop.call_soon_threadsafe(self._release, user_id)
        except RuntimeError:  # the loop is closed, so no look-up waits
            self._release(user_id)

    async def _acquire(self, user_id: str | None) -> None:
        """Waits for a thread. Raises Full."""
        if self._available(user_id):
            self._take(user_id)
            return
        acquired: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = user_id, acquired
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout(self._patience):
                await acquired
        except TimeoutError:
            self._withdraw(waiter)
            raise Full(self._patience) from None
        except BaseException:
            self._withdraw(waiter)
            raise

    def _withdraw(self, waiter: tuple[str | None, asyncio.Future[None]]) -> None:
        user_id, acquired = waiter
        if acquired.cancelled():
            self._waiting.remove(waiter)
        else:  # it acquired a thread in the same turn of the loop
            self._release(user_id)

    def _available(self, user_id: str | None) -> bool:
        return self._free > 0 and (user_id is None or self._taken[user_id] < self._per_user)

    def _take(self, user_id: str | None) -> None:
        self._free -= 1
        self._taken[user_id] += 1

    def _release(self, user_id: str | None) -> None:
        """Frees a thread, and passes it to the first waiter whose share allows it."""
        self._free += 1
        self._taken[user_id] -= 1
        if not self._taken[user_id]:
            del self._taken[user_id]
        for waiter in self._waiting:
            waiting_user, acquired = waiter
            if self._available(waiting_user) and not acquired.done():
                self._waiting.remove(waiter)
                self._take(waiting_user)
                acquired.set_result(None)
                return
