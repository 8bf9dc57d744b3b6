"""HTTP from a socket, with a bound on what a request may be before anybody looks at it.

httptools has none of its own: whoever connects could send headers until the memory is full, or one byte
of them a minute and hold the connection.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD = 64 << 10
"""Bytes of a request's line and headers, as h11 has it; what comes in the first read is not counted."""

HEAD_WITHIN = 30.0
"""Seconds from the first byte of a request to the last of its headers."""

FIRST_WITHIN = 75.0
"""Seconds until a new connection sends something: browsers and proxies open some in advance."""

_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class BoundedProtocol(HttpToolsProtocol):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head: int | None = 0
        """Bytes of an incomplete one; None between a request's headers and the next request."""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type] - uvicorn asks for a Transport, which it is
        self._expect_head(FIRST_WITHIN)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._head is not None:
            self._head += len(data)
        super().data_received(data)
        if self._head is not None and self._head > MAX_HEAD and not self.transport.is_closing():
            self.transport.write(_TOO_LARGE)
            self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect_head(HEAD_WITHIN)

    def on_headers_complete(self) -> None:
        self._stop_timer()
        self._head = None
        super().on_headers_complete()

    def _expect_head(self, within: float) -> None:
        self._stop_timer()
        self._head = 0
        self._timer = self.loop.call_later(within, self.transport.close)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
