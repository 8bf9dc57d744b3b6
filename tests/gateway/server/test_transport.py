"""Writes of responses: head and body together, and after the end of the connection."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
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


class Writes(asyncio.Transport):
    """Records the writes and the end of the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def close(self) -> None:
        self.written.append(b"closed")

    def is_closing(self) -> bool:
        return b"closed" in self.written


@pytest.fixture
def writes() -> Writes:
    return Writes()


@pytest.fixture
def guarded(writes: Writes) -> GuardedTransport:
    return GuardedTransport(writes, writes.close, writes.is_closing)


async def test_head_and_body_are_one_write(writes: Writes, guarded: GuardedTransport) -> None:
    guarded.expect_head()
    guarded.write(b"head ")
    guarded.write(b"body")
    guarded.write(b"more")
    await asyncio.sleep(0)
    assert writes.written == [b"head body", b"more"]


async def test_head_without_body_is_written_at_the_end_of_the_turn(
    writes: Writes, guarded: GuardedTransport
) -> None:
    guarded.expect_head()
    guarded.write(b"head")
    assert writes.written == []
    await asyncio.sleep(0)
    assert writes.written == [b"head"]


async def test_large_body_is_not_copied_behind_its_head(writes: Writes, guarded: GuardedTransport) -> None:
    guarded.expect_head()
    guarded.write(b"head")
    guarded.write(bytes(1 << 20))
    assert list(map(len, writes.written)) == [4, 1 << 20]


async def test_head_of_a_closed_connection_is_dropped(writes: Writes, guarded: GuardedTransport) -> None:
    guarded.expect_head()
    guarded.write(b"head")
    writes.close()
    await asyncio.sleep(0)
    assert writes.written == [b"closed"]
