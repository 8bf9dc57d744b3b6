"""HTTP as bytes: servers with a protocol of their own, and connections that send what no client would."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

import uvicorn

from coordinator.gateway.server.phases import Limits
from coordinator.gateway.server.protocol import BoundedProtocol
from tests.support.in_process import listening_server
from tests.support.waiting import wait_until


def bounded(limits: Limits | None = None, connections: int | None = None) -> type[BoundedProtocol]:
    class Protocol(BoundedProtocol):
        max_connections = connections

    Protocol.limits = limits or Limits()
    return Protocol


@asynccontextmanager
async def served_by(app: Any, protocol: type[BoundedProtocol] = BoundedProtocol) -> AsyncGenerator[int]:
    """The port of a plain uvicorn."""
    config = uvicorn.Config(
        app, http=protocol, log_level="critical", timeout_graceful_shutdown=1, lifespan="off"
    )
    async with listening_server(config) as (_, port):
        yield port


class Raw:
    """A connection. Reads on while it writes, so that nothing that was answered is lost."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.got = b""
        self.ended = asyncio.create_task(self._read(reader))
        """Done when the server has closed it, or reset it."""

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65_536):
                self.got += data

    async def send(self, data: bytes) -> bool:
        """False = it is closed."""
        if self.ended.done():
            return False
        try:
            self._writer.write(data)
            await self._writer.drain()
        except ConnectionError:
            return False
        return True

    async def drip(self, data: bytes, every: float) -> None:
        """Until the server closes it."""
        while not (await asyncio.wait((self.ended,), timeout=every))[0]:
            await self.send(data)

    async def has(self, what: bytes, times: int = 1) -> None:
        await wait_until(
            lambda: self.got.count(what) >= times, description=f"{what!r} x{times} in {self.got!r}"
        )

    async def closed(self, within: float = 20) -> bytes:
        """All that came."""
        async with asyncio.timeout(within):
            await self.ended
        return self.got

    async def aclose(self) -> None:
        self.ended.cancel()
        self._writer.transport.abort()
        await asyncio.wait((self.ended,))


@asynccontextmanager
async def connected(port: int) -> AsyncGenerator[Raw]:
    raw = Raw(*await asyncio.open_connection("127.0.0.1", port))
    try:
        yield raw
    finally:
        await raw.aclose()
