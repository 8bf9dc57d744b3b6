"""Calls that stay without an answer: is the server still working on them?

A middlebox may acknowledge what it forwards no more, and then a call that was sent looks like one that waits
for a lock. The server knows the difference, so it is queried, on a connection of its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from stores.postgres.driver import Connection
from stores.postgres.hosts import Session
from stores.tasks import begin_soon

logger = logging.getLogger(__name__)

SILENT_FOR = 2.0
"""s. A call that has had no answer for this long is checked. Well within the time for which a call is
repeated (`away_timeout`), or it would not be made again."""
_LOOK_EVERY = 1.0  # s; while there are calls
_ON_ITS_WAY = 0.5  # s; an answer that the server has given may still arrive
_QUERY_WITHIN = 3.0  # s; for the check. A server that is away works for no client

_AT_WORK = """
SELECT pid FROM pg_stat_activity WHERE pid = ANY($1) AND state IS DISTINCT FROM 'idle'
"""


class Silence:
    """The calls of one pool. `connect` makes a connection to the server; `lost` is called with each
    connection whose call the server does not work on. Costs a call nothing until it is silent. Not for
    connections behind a pooler that assigns sessions by transaction: the session of a call is not known
    there."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        lost: Callable[[Session], None],
    ) -> None:
        self._connect, self._lost = connect, lost
        self._since: dict[Session, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None

    def began(self, cx: Session) -> None:
        loop = asyncio.get_running_loop()
        self._since[cx] = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(_LOOK_EVERY, self._look_soon)

    def over(self, cx: Session) -> None:
        self._since.pop(cx, None)

    async def aclose(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait((self._looking,))

    def _look_soon(self) -> None:
        self._timer = None
        if self._since:
            self._timer = asyncio.get_running_loop().call_later(_LOOK_EVERY, self._look_soon)
            if self._silent() and (self._looking is None or self._looking.done()):
                self._looking = begin_soon(self._look())

    def _silent(self) -> dict[Session, float]:
        before = asyncio.get_running_loop().time() - SILENT_FOR
        return {cx: since for cx, since in self._since.items() if since <= before}

    async def _look(self) -> None:
        silent = self._silent()
        try:
            async with asyncio.timeout(_QUERY_WITHIN):
                at_work = await self._at_work([cx.backend for cx in silent])
        except Exception as error:  # noqa: BLE001 - then each call has its own bound
            logger.debug("Calls without an answer could not be checked at the server: %r", error)
            return
        await asyncio.sleep(_ON_ITS_WAY)
        for cx, since in silent.items():
            if self._since.get(cx) == since and cx.backend not in at_work:  # else it is released
                logger.warning("A connection to the store is given up: the server is not working on its call")
                self._lost(cx)

    async def _at_work(self, backends: list[int]) -> set[int]:
        cx = await self._connect()
        try:
            return {row["pid"] for row in await cx.fetch(_AT_WORK, backends)}
        finally:
            cx.terminate()  # an orderly close would have to be waited for
