"""Accepts connections from a listening socket, a few at a time."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

from coordinator.gateway.server.listening import REUSE_PORT
from stores.tasks import begin_soon

logger = logging.getLogger("coordinator.serve")

BACKLOG = 2048
"""Connections that the kernel keeps until they are accepted."""

MAX_UNCOUNTED = 16
"""How many connections may be accepted and not yet counted by `Connections`. An event loop's own server
accepts the whole backlog in one iteration, which can use every descriptor before the first is refused."""

_USER_TIMEOUT_MS = 60_000

PROBE_LIMIT = 1.0
"""Seconds for a connection to the own port."""

RETRY_DELAY = 0.2
"""Seconds until the next attempt after accepting has failed, for example without a free descriptor."""


class Acceptor:
    """Replaces the server of `loop.create_server`. Owns the socket from `start` on."""

    def __init__(self, listener: socket.socket, protocol: Callable[[], asyncio.Protocol]) -> None:
        self._listener, self._protocol = listener, protocol
        self._loop = asyncio.get_running_loop()
        self._uncounted: set[asyncio.Task[object]] = set()
        self._retry: asyncio.TimerHandle | None = None
        self._closed = False

    def start(self) -> None:
        self._listener.setblocking(False)
        self._listener.listen(BACKLOG)
        self._loop.add_reader(self._listener, self._accept)

    def pause(self) -> None:
        """Stops listening, after the connections of the backlog are accepted, until `start`. The kernel gives
        further ones to other sockets of the port. The socket stays bound."""
        self._accept()
        self._loop.remove_reader(self._listener)
        self._listener.shutdown(socket.SHUT_RDWR)

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def shares_port(self) -> bool:
        """Whether other sockets may listen on the port."""
        option = getattr(socket, "SO_REUSEPORT", None)
        return (
            REUSE_PORT and option is not None and bool(self._listener.getsockopt(socket.SOL_SOCKET, option))
        )

    async def others_listen(self) -> bool:
        """Whether another socket listens on the port, while this one does not."""
        host, port, *_ = self._listener.getsockname()
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared with
        try:
            async with asyncio.timeout(PROBE_LIMIT):
                _, writer = await asyncio.open_connection(host, port)
        except (OSError, TimeoutError):
            return False
        writer.close()
        return True

    def close(self) -> None:
        """Idempotent. Closes the listening socket; accepted connections stay open."""
        if self._closed:
            return
        self._closed = True
        if self._retry is not None:
            self._retry.cancel()
        self._loop.remove_reader(self._listener)
        self._listener.close()

    async def wait_closed(self) -> None:
        if self._uncounted:
            await asyncio.wait(self._uncounted)

    def _accept(self) -> None:
        for _ in range(MAX_UNCOUNTED - len(self._uncounted)):
            try:
                accepted, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._retry_later(error)
                return
            task = begin_soon(self._connect(accepted))
            self._uncounted.add(task)
            task.add_done_callback(self._uncounted.discard)

    async def _connect(self, accepted: socket.socket) -> None:
        try:
            accepted.setblocking(False)
            _set_user_timeout(accepted)
            await self._loop.connect_accepted_socket(self._protocol, accepted)
        except OSError:  # the client has disconnected
            accepted.close()

    def _retry_later(self, error: OSError) -> None:
        logger.error(
            "connections cannot be accepted: %s; retry in %g s. Runs or files of this process may have used"
            " up its descriptors (ulimit -n)",
            error,
            RETRY_DELAY,
        )
        self._loop.remove_reader(self._listener)
        self._retry = self._loop.call_later(RETRY_DELAY, self._resume)

    def _resume(self) -> None:
        self._retry = None
        self._loop.add_reader(self._listener, self._accept)


def _set_user_timeout(accepted: socket.socket) -> None:
    """Makes the kernel close a connection whose client acknowledges or reads nothing for 60 s, also when the
    rest of a response is only in the kernel's buffers."""
    if hasattr(socket, "TCP_USER_TIMEOUT") and accepted.family in (socket.AF_INET, socket.AF_INET6):
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)
