"""The transport of a connection as uvicorn sees it: what it closes, the protocol closes."""

from __future__ import annotations

import asyncio
import struct
import sys
from collections.abc import Callable
from typing import Any


class GuardedTransport:
    """Everything is the transport's own, but for `close`, which asks the protocol, `is_closing`, which is
    true as soon as the protocol has begun to close, and `write`.

    uvicorn closes right after an answer. Where the client is still sending, the kernel then resets the
    connection, and the client may lose the answer.
    """

    def __init__(
        self, inner: asyncio.Transport, close: Callable[[], None], is_closing: Callable[[], bool]
    ) -> None:
        self._inner = inner
        self.close = close
        self.is_closing = is_closing

    def write(self, data: bytes) -> None:
        """Nothing where the connection is over: of requests that came together uvicorn marks one alone as
        disconnected, the answer to another may follow, and uvloop raises for that."""
        if not self._inner.is_closing():
            self._inner.write(data)

    def release(self) -> None:
        """The protocol is not asked any more: the two would keep each other in memory."""
        self.close, self.is_closing = self._inner.close, self._inner.is_closing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def in_kernel(transport: asyncio.Transport) -> int:
    """Bytes that were written and that the other side has not acknowledged; 0 where the system does not say.

    The kernel takes more only when a third of what it holds has gone out, and may hold megabytes: until then
    it alone knows that a slow client reads."""
    if sys.platform != "linux":
        return 0
    import fcntl  # noqa: PLC0415 - not on every platform
    import termios  # noqa: PLC0415 - not on every platform

    try:
        descriptor = transport.get_extra_info("socket").fileno()
        return struct.unpack("i", fcntl.ioctl(descriptor, termios.TIOCOUTQ, b"\0" * 4))[0]
    except (OSError, RuntimeError, AttributeError):
        return 0
