"""One open connection as a stream of replies.

`redis-py` connects, secures and authenticates; then the transport is handed to `Wire`, whose callbacks run
inside the event loop's own: no reader task, no future per read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from coordinator.redis.address import Address, Opened
from coordinator.redis.connections import streams_of
from coordinator.redis.resp import Decoder, ProtocolError, Reply


class Wire(asyncio.Protocol):
    """An open connection. Made by `open_wire`; whoever has it calls `aclose` at the end."""

    def __init__(
        self,
        opened: Opened,
        transport: asyncio.Transport,
        on_replies: Callable[[list[Reply]], None],
        on_lost: Callable[[], None],
    ) -> None:
        self.opened = opened
        self._transport = transport
        self._decoder = Decoder()
        self._on_replies = on_replies
        self._on_lost = on_lost
        self._over = asyncio.Event()
        self._released = asyncio.Event()
        self.lost = False
        self.why = "closed by the server"

    def send(self, data: bytes) -> None:
        """Never waits and never raises; what cannot be written is lost with the connection."""
        self._transport.write(data)

    def abort(self, why: str) -> None:
        """Give the connection up. `on_lost` is called before this returns; nothing is read any more."""
        if not self.lost:
            self.why = why
            self._transport.abort()
            self._lose()

    async def wait_lost(self) -> None:
        await self._over.wait()

    async def aclose(self) -> None:
        """Returns when the socket is closed. Idempotent."""
        self.abort("closed by us")
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
            self._over.set()
            self._on_lost()


async def open_wire(
    address: Address, on_replies: Callable[[list[Reply]], None], on_lost: Callable[[], None]
) -> Wire:
    """Connect and authenticate. `on_lost` is called exactly once. Raises OSError or RedisError."""
    opened = await address.connect()
    reader, transport = streams_of(opened.connection)
    wire = Wire(opened, transport, on_replies, on_lost)
    transport.set_protocol(wire)
    if reader.at_eof():  # the end came before the handover, and is announced only once
        wire.abort("closed by the server")
    return wire
