"""A request's head is bounded in bytes and in time, whoever sends it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

import pytest
import uvicorn

from coordinator.gateway.server import protocol as bounds
from coordinator.gateway.server.protocol import MAX_HEAD, BoundedProtocol
from tests.support.waiting import wait_until


async def app(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.fixture
async def port() -> AsyncGenerator[int]:
    server = uvicorn.Server(
        uvicorn.Config(
            app, http=BoundedProtocol, lifespan="off", log_level="error", timeout_graceful_shutdown=1
        )
    )
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        serving = asyncio.create_task(server._serve([listener]))
        await wait_until(lambda: server.started, description="it listens")
        yield listener.getsockname()[1]
        server.should_exit = True
        await serving


async def answer(port: int, *pieces: bytes) -> bytes:
    """All that comes back until the connection ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            with suppress(ConnectionError):
                writer.write(piece)
                await writer.drain()
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


HEAD = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
END = b"Connection: close\r\n\r\n"


async def test_headers_within_the_bound_pass(port: int) -> None:
    assert b" 204 " in await answer(port, HEAD, b"X: " + b"a" * (MAX_HEAD - 500) + b"\r\n" + END)


async def test_a_long_body_is_not_taken_for_headers(port: int) -> None:
    head = HEAD.replace(b"GET", b"POST") + b"Content-Length: %d\r\n" % (MAX_HEAD * 4)
    assert b" 204 " in await answer(port, head + END, *[b"x" * MAX_HEAD] * 4)


@pytest.mark.parametrize("line", [b"X: " + b"a" * 1000 + b"\r\n", b"a" * 1000])
async def test_headers_without_end_are_cut(port: int, line: bytes) -> None:
    """Either the answer is read, or the connection was reset while it was still being written to."""
    got = await answer(port, HEAD, *[line * 64] * 50)
    assert got == b"" or b" 431 " in got or b" 400 " in got


async def test_a_second_request_on_a_connection_has_the_bound_too(port: int) -> None:
    keep = HEAD + b"\r\n"
    got = await answer(port, keep, HEAD, *[b"X: " + b"a" * 60_000 + b"\r\n"] * 50)
    assert got.count(b" 204 ") <= 1
    assert b" 204 " in await answer(port, keep, HEAD + END)


@pytest.mark.parametrize("begun", [b"", b"GET / HT", HEAD])
async def test_who_does_not_go_on_is_cut(port: int, begun: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "FIRST_WITHIN", 0.05)
    monkeypatch.setattr(bounds, "HEAD_WITHIN", 0.05)
    async with asyncio.timeout(5):
        assert await answer(port, begun) == b""
