"""WebSockets on one connection, with bounds on what a client sends and on what it does not read.

`websockets` bounds the size of a message. Without the bounds here a client could send empty fragments without
end, or parts of messages on a thousand connections, or pings whose answers it does not read.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import Frame

from coordinator.gateway.server.connections import Connections, connections_of
from stores.json_values import JsonObject

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent  # the type of the method that is overridden has no public name

MAX_FRAGMENTS = 1024
MAX_UNSENT = 256 << 10
"""Bytes that may wait for the client when it sends a ping: an answer is added for each."""

NOT_UTF_8 = 1007
"""Close code of RFC 6455."""

# Not uvicorn's: it logs addresses with their queries, which may contain secrets.
logger = logging.getLogger("coordinator.serve.sockets")
logger.setLevel(logging.WARNING)


class BoundedSocket(WebSocketsSansIOProtocol):
    """A protocol for `uvicorn.Config(ws=…)`. It counts as a connection of its server."""

    def __init__(self, config: Config, server_state: ServerState, app_state: JsonObject) -> None:
        super().__init__(config, server_state, app_state)
        self.logger = logger
        self._open: Connections = connections_of(server_state, None)
        self._since: float | None = None
        self.unread = 0
        """Bytes of a message that is not complete."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._set_unread(0)
        self._open.remove(self)
        super().connection_lost(exc)

    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        if self.initial_response is not None and self.close_sent:
            self.handshake_complete = True  # by a refusal, which uvicorn logs as a handshake without an end

    def data_received(self, data: bytes) -> None:
        if self.handshake_initiated:
            self._set_unread(self.unread + len(data))
        super().data_received(data)

    def start_keepalive(self) -> None:
        """Called when the socket is accepted: nothing reads the handshake any more, which takes 3 KiB."""
        super().start_keepalive()
        del self.request, self.response

    def send_receive_event_to_app(self) -> None:
        self._set_unread(0)
        if self.curr_msg_data_type == "text" and not _is_text(b"".join(self.frames)):
            self.frames = []
            self.conn.send_close(NOT_UTF_8)  # uvicorn does the same, and logs an error for it
            self.handle_parser_exception()
        else:
            super().send_receive_event_to_app()

    def handle_cont(self, event: Frame) -> None:
        if len(self.frames) >= MAX_FRAGMENTS:
            self.evict()
        else:
            super().handle_cont(event)

    def handle_ping(self) -> None:
        self._set_unread(0 if not self.frames else self.unread)
        if self.transport.get_write_buffer_size() > MAX_UNSENT:
            self.evict()
        else:
            super().handle_ping()

    def handle_pong(self, event: Frame) -> None:
        self._set_unread(0 if not self.frames else self.unread)
        super().handle_pong(event)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._open.set_untaken(self, self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        super().resume_writing()
        self._open.set_untaken(self, 0)

    def keepalive_timeout(self) -> None:
        """uvicorn would wait until the client has read what it does not read."""
        super().keepalive_timeout()
        self.transport.abort()

    # -- for `Connections`

    @property
    def waits_since(self) -> float | None:
        return self._since

    def evict(self) -> None:
        self.transport.abort()

    def reject(self) -> None:
        self.evict()

    def _set_unread(self, size: int) -> None:
        if size != self.unread:
            growth, self.unread = size - self.unread, size
            self._since = None if not size else self._since or self.loop.time()
            self._open.add_unread(self, growth)


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
