"""Writes to a connection that has ended."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import uvloop

from coordinator.gateway.server.transport import GuardedTransport


class Late(asyncio.Protocol):
    """Its response follows the end of the connection: it belongs to the first of two pipelined requests, of
    which uvicorn marks only the second as disconnected."""

    def __init__(self, closed: asyncio.Future[BaseException | None]) -> None:
        self._closed = closed

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        inner = cast("asyncio.Transport", transport)
        self._transport = GuardedTransport(inner, inner.close, inner.is_closing)

    def connection_lost(self, exc: Exception | None) -> None:
        asyncio.get_running_loop().call_soon(self._answer)

    def _answer(self) -> None:
        try:
            self._transport.write(b"answer")
        except RuntimeError as error:
            self._closed.set_result(error)
        else:
            self._closed.set_result(None)


def test_response_on_a_closed_connection_is_dropped() -> None:
    """uvloop raises for such a write; the loop of the standard library ignores it."""

    async def run() -> BaseException | None:
        closed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        server = await asyncio.get_running_loop().create_server(lambda: Late(closed), "127.0.0.1", 0)
        async with server, asyncio.timeout(10):
            _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.close()
            return await closed

    assert uvloop.run(run()) is None
