"""The transport that uvicorn uses: closing it is left to the protocol."""

from __future__ import annotations

import asyncio
import struct
import sys
from collections.abc import Callable
from typing import Any

_JOINED = 64 << 10
"""Bytes up to which a body is copied behind its head."""


class GuardedTransport:
    """Delegates to the inner transport, except for `close`, which calls the protocol, `is_closing`, which is
    true once the protocol has begun to close, and `write`.

    uvicorn closes the connection right after a response. If the client is still sending, the kernel then
    resets the connection, and the client may lose the response.

    uvicorn writes the head and the body of a response separately. Each write is a system call, and a packet
    that wakes the client. After `expect_head`, the next write waits for the one that follows it, until the
    end of the loop's turn at most.
    """

    def __init__(
        self, inner: asyncio.Transport, close: Callable[[], None], is_closing: Callable[[], bool]
    ) -> None:
        self._inner = inner
        self.close = close
        self.is_closing = is_closing
        self._expects_head = False
        self._head = b""

    def expect_head(self) -> None:
        self._expects_head = True

    def write(self, data: bytes) -> None:
        """Does nothing if the connection is closed. Of pipelined requests uvicorn marks only one as
        disconnected; the response to another may still be written, for which uvloop would raise."""
        if self._inner.is_closing():
            return
        if self._expects_head:
            self.flush()
            self._expects_head, self._head = False, data
            asyncio.get_running_loop().call_soon(self.flush)
        elif self._head and len(data) <= _JOINED:
            head, self._head = self._head, b""
            self._inner.write(head + data)
        else:
            self.flush()
            self._inner.write(data)

    def flush(self) -> None:
        """Writes the head that waits, if any."""
        head, self._head = self._head, b""
        if head and not self._inner.is_closing():
            self._inner.write(head)

    def release(self) -> None:
        """Drops the references to the protocol, which would otherwise form a reference cycle."""
        self.close, self.is_closing = self._inner.close, self._inner.is_closing

    def __getattr__(self, name: str) -> Any:  # Any: whatever the transport has
        return getattr(self._inner, name)


def in_kernel(transport: asyncio.Transport) -> int:
    """Returns the number of written bytes that the peer has not acknowledged; 0 on systems without TIOCOUTQ.

    The kernel buffers megabytes and accepts more only after a third of them is sent. Until then this number
    is the only evidence that a slow client reads."""
    if sys.platform != "linux":
        return 0
    import fcntl  # noqa: PLC0415 - not on every platform
    import termios  # noqa: PLC0415 - not on every platform

    try:
        descriptor = transport.get_extra_info("socket").fileno()
        return struct.unpack("i", fcntl.ioctl(descriptor, termios.TIOCOUTQ, b"\0" * 4))[0]
    except (OSError, RuntimeError, AttributeError):
        return 0
