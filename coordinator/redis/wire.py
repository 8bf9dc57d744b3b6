"""An open connection as a stream of replies.

`redis-py` connects and authenticates; then the transport is passed to `Wire`, a protocol of asyncio that
needs no reader task and no future per read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from coordinator.redis.address import Address, OpenConnection
from coordinator.redis.connections import streams_of
from coordinator.redis.resp import Decoder, ProtocolError, Reply


class Wire(asyncio.Protocol):
    """An open connection, made by `open_wire`. Its owner must call `aclose`."""

    def __init__(
        self,
        opened: OpenConnection,
        transport: asyncio.Transport,
        on_replies: Callable[[list[Reply]], None],
        on_lost: Callable[[], None],
    ) -> None:
        self.opened = opened
        self._transport = transport
        self._decoder = Decoder()
        self._on_replies = on_replies
        self._on_lost = on_lost
        self._released = asyncio.Event()
        self.lost = False
        self.why = "closed by the server"

    def send(self, data: bytes) -> None:
        """Writes without waiting; never raises. Data that cannot be written is lost with the connection."""
        self._transport.write(data)

    def abort(self, why: str) -> None:
        """Aborts the connection. Calls `on_lost` before it returns; no reply is passed on afterwards."""
        if not self.lost:
            self.why = why
            self._transport.abort()
            self._lose()

    async def aclose(self) -> None:
        """Aborts the connection, and returns when the socket is closed. Idempotent."""
        self.abort("closed by this worker")
        await self.opened.connection.disconnect(nowait=True)
        await self._released.wait()

    def data_received(self, data: bytes) -> None:
        if self.lost:
            return
        try:
            replies = self._decoder.feed(data)
        except ProtocolError as error:
            if error.replies:
                self._on_replies(error.replies)
            self.abort(str(error))
        else:
            if replies:
                self._on_replies(replies)

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and not self.lost:
            self.why = str(exc) or type(exc).__name__
        self._released.set()
        self._lose()

    def _lose(self) -> None:
        if not self.lost:
            self.lost = True
            self._on_lost()


async def open_wire(
    address: Address, on_replies: Callable[[list[Reply]], None], on_lost: Callable[[], None]
) -> Wire:
    """Connects and authenticates. `on_lost` is called exactly once. Raises OSError or RedisError."""
    opened = await address.connect()
    reader, transport = streams_of(opened.connection)
    wire = Wire(opened, transport, on_replies, on_lost)
    transport.set_protocol(wire)
    if reader.at_eof():  # the server closed before `set_protocol`, so `connection_lost` may not be called
        wire.abort("closed by the server")
    return wire
