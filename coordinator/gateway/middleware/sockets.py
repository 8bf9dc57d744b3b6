"""What `Envelope` observes of a WebSocket: its handshake, its messages, its close."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from starlette.types import Message, Receive, Send

_SWITCHED = 101
_REFUSED = 403
"""The status with which servers refuse a handshake without a response of its own."""


class SocketOpened(NamedTuple):
    """A handshake was accepted."""


class SocketClosed(NamedTuple):
    """A socket that was opened has ended. `route`: the template. `code`: of the first close, by either side;
    None = the app ended without one."""

    route: str
    code: int | None


class SocketWatch:
    """Wraps the two channels of a socket. `status`: of the response to the handshake, None = there was
    none."""

    __slots__ = (
        "_on_open",
        "_receive",
        "_send",
        "code",
        "received",
        "seconds_to_response",
        "sent",
        "started_at",
        "status",
    )

    def __init__(self, receive: Receive, send: Send, on_open: Callable[[], None]) -> None:
        self._receive, self._send, self._on_open = receive, send, on_open
        self.started_at = time.perf_counter()
        self.status: int | None = None
        self.seconds_to_response: float | None = None
        self.code: int | None = None
        self.received = self.sent = 0

    @property
    def opened(self) -> bool:
        return self.status == _SWITCHED

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "websocket.receive":
            self.received += 1
        elif message["type"] == "websocket.disconnect" and self.code is None:
            self.code = message.get("code")
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.accept":
            self._responded(_SWITCHED)
            self._on_open()
        elif kind == "websocket.http.response.start":
            self._responded(message["status"])
        elif kind == "websocket.close":
            self._close(message)
        await self._send(message)
        self.sent += kind == "websocket.send"

    def _responded(self, status: int) -> None:
        self.status, self.seconds_to_response = status, time.perf_counter() - self.started_at

    def _close(self, message: Message) -> None:
        if self.status is None:
            self._responded(_REFUSED)
        elif self.code is None:
            self.code = message.get("code", 1000)
