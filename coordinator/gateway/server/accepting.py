"""Takes connections from a listening socket, few at a time."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any

from stores.tasks import begin_soon

logger = logging.getLogger("coordinator.serve")

BACKLOG = 2048
"""Connections that the kernel keeps until they are accepted."""

AT_ONCE = 16
"""How many are accepted before those accepted earlier have been counted. An event loop's own server accepts
all that wait, in one turn: then they take every descriptor before the first of them can be refused."""

_SILENCE_MS = 60_000

AGAIN = 0.2
"""Seconds until the next try, where no descriptor is left."""


class Acceptor:
    """In the place of what `loop.create_server` makes. Owns the socket from `start` on."""

    def __init__(self, listener: socket.socket, protocol: Callable[[], asyncio.Protocol]) -> None:
        self._listener, self._protocol = listener, protocol
        self._loop = asyncio.get_running_loop()
        self._uncounted: set[asyncio.Task[Any]] = set()
        self._again: asyncio.TimerHandle | None = None
        self._closed = False

    def start(self) -> None:
        self._listener.setblocking(False)
        self._listener.listen(BACKLOG)
        self._loop.add_reader(self._listener, self._accept)

    def close(self) -> None:
        """Idempotent. What was accepted goes on."""
        if self._closed:
            return
        self._closed = True
        if self._again is not None:
            self._again.cancel()
        self._loop.remove_reader(self._listener)
        self._listener.close()

    async def wait_closed(self) -> None:
        if self._uncounted:
            await asyncio.wait(self._uncounted)

    def _accept(self) -> None:
        for _ in range(AT_ONCE - len(self._uncounted)):
            try:
                accepted, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause(error)
                return
            task = begin_soon(self._connect(accepted))
            self._uncounted.add(task)
            task.add_done_callback(self._uncounted.discard)

    async def _connect(self, accepted: socket.socket) -> None:
        try:
            accepted.setblocking(False)
            _bound_silence(accepted)
            await self._loop.connect_accepted_socket(self._protocol, accepted)
        except OSError:  # its client has gone
            accepted.close()

    def _pause(self, error: OSError) -> None:
        logger.error(
            "no connection can be accepted: %s; tried again in %g s. Runs or files of this process may have"
            " taken its descriptors (ulimit -n)",
            error,
            AGAIN,
        )
        self._loop.remove_reader(self._listener)
        self._again = self._loop.call_later(AGAIN, self._resume)

    def _resume(self) -> None:
        self._again = None
        self._loop.add_reader(self._listener, self._accept)


def _bound_silence(accepted: socket.socket) -> None:
    """The kernel ends a connection whose client acknowledges nothing of what was sent, or takes nothing, for
    so long: also where all that is left of an answer is in the kernel's buffers."""
    if hasattr(socket, "TCP_USER_TIMEOUT") and accepted.family in (socket.AF_INET, socket.AF_INET6):
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _SILENCE_MS)
