"""A TCP proxy that does to a connection what networks do."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from types import TracebackType


class Proxy:
    """Forwards to a server until a fault is set. Faults apply to open and to new connections alike.

    `requests` and `replies` count reads from clients and from the server: one write is one read.
    """

    def __init__(self, host: str, port: int) -> None:
        self._upstream = (host, port)
        self._server: asyncio.Server | None = None
        self._pumps: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0
        """0 until it is entered, and then whichever is free; or set before."""
        self.requests = 0
        self.replies = 0
        self.connections = 0
        self.delay = 0.0
        """Seconds by which each reply is late."""
        self._is_hole: Callable[[int], bool] = lambda _: False
        self.drop_replies = 0
        """So many of the next replies are swallowed."""
        self.lose_reply = 0
        """Counts down: instead of that reply, 1 = the next one, the client gets a reset of its connection."""

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def black_hole(
        self, *, only: int | None = None, spare: int | None = None, upto: int | None = None
    ) -> None:
        """Connections stand and new ones are accepted, but nothing passes. What is swallowed never comes.

        Struck is `only` one of them, or all but the one to `spare`, or those `upto` one, numbered from 1 by
        arrival.
        """
        self._is_hole = lambda number: (
            number != spare and only in (None, number) and (upto is None or number <= upto)
        )

    def restore(self) -> None:
        self._is_hole = lambda _: False

    def reset(self) -> None:
        """Break all open connections by RST."""
        for writer in self._writers:
            _reset(writer)

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.reset()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        self._writers.add(writer)
        accepting = asyncio.current_task()
        assert accepting is not None
        self._pumps.add(accepting)  # it may wait for its upstream when the proxy closes
        accepting.add_done_callback(self._pumps.discard)
        try:
            upstream_reader, upstream_writer = await asyncio.open_connection(*self._upstream)
        except OSError:
            self._forget(writer)
            return
        self._writers.add(upstream_writer)
        for source, target, from_server in (
            (reader, upstream_writer, False),
            (upstream_reader, writer, True),
        ):
            pump = asyncio.create_task(self._pump(number, source, target, from_server=from_server))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def _pump(
        self, number: int, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, from_server: bool
    ) -> None:
        try:
            while data := await source.read(1 << 20):
                if from_server:
                    self.replies += 1
                    if self.delay:
                        await asyncio.sleep(self.delay)
                    if self.lose_reply:
                        self.lose_reply -= 1
                        if not self.lose_reply:
                            _reset(target)
                            break
                    if self.drop_replies:
                        self.drop_replies -= 1
                        continue
                else:
                    self.requests += 1
                if not self._is_hole(number):
                    target.write(data)
        except OSError:
            pass
        finally:
            self._forget(target)

    def _forget(self, writer: asyncio.StreamWriter) -> None:
        self._writers.discard(writer)
        writer.transport.abort()


def _reset(writer: asyncio.StreamWriter) -> None:
    """By RST: what was not sent is gone, and so is what the other side has not read."""
    connected = writer.get_extra_info("socket")
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
