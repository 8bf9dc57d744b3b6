"""Calls of PostgreSQL without an answer, and connections that are released while the server is queried."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from stores.postgres.driver import Connection
from stores.postgres.hosts import Session
from stores.postgres.silence import Silence


class Cx:
    """As the driver's proxies: a released one has no attributes of its connection."""

    def __init__(self, backend: int) -> None:
        self._backend, self.released = backend, False

    @property
    def backend(self) -> int:
        if self.released:
            raise AttributeError("'NoneType' object has no attribute 'backend'")
        return self._backend


class Server:
    """Works on no call."""

    def __init__(self) -> None:
        self.queried, self.queries = asyncio.Event(), 0

    async def fetch(self, sql: str, backends: list[int]) -> list[dict[str, Any]]:
        self.queries += 1
        self.queried.set()
        return []

    def terminate(self) -> None:
        pass


async def test_call_that_ends_during_the_check_does_not_end_the_check() -> None:
    server, lost = Server(), asyncio.get_running_loop().create_future()

    async def connect() -> Connection:
        return cast("Connection", server)

    silence = Silence(connect, lost.set_result)
    over, silent = Cx(1), Cx(2)
    for cx in (over, silent):
        silence.began(cast("Session", cx))
    async with asyncio.timeout(10):
        await server.queried.wait()
        silence.over(cast("Session", over))
        over.released = True
        assert await lost is silent
    assert server.queries == 1, "the next check would find it, too, a second later"
    await silence.aclose()
