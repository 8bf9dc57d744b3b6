"""Connects to one of the servers that a URL names: the first that answers and takes writes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import asyncpg

from stores.postgres.address import Address
from stores.postgres.driver import Connection
from stores.postgres.faults import Kind, fault_of
from stores.tasks import begin_soon

NEXT_AFTER = 1.0
"""s. While a server has not accepted a session for this long, the next one is tried as well. After the last
one, those that have failed are tried again at this interval: one of them may be restarting."""
SILENT_WITHIN = 5
"""s. Data that the network does not acknowledge, or silence of an idle peer, ends a connection after this."""
_TCP_OPTIONS = (
    ("TCP_KEEPIDLE", SILENT_WITHIN),
    ("TCP_KEEPALIVE", SILENT_WITHIN),  # the name on macOS
    ("TCP_KEEPINTVL", 1),
    ("TCP_KEEPCNT", 3),
    ("TCP_USER_TIMEOUT", SILENT_WITHIN * 1000),
)


class Session(asyncpg.Connection):
    """A connection whose loss the operating system notices, and that records when it was last used.
    `backend`: the server's process of this session, 0 = unknown."""

    __slots__ = ("backend", "used_at")

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # Any: as the driver's
        super().__init__(*args, **kwargs)
        self.backend = 0
        self.used_at = asyncio.get_running_loop().time()
        for transport in (each for each in args if hasattr(each, "get_extra_info")):
            _notice_silence(transport.get_extra_info("socket"))

    def touch(self) -> None:
        """The server has answered on this connection."""
        self.used_at = asyncio.get_running_loop().time()

    def idle_for(self) -> float:
        """Seconds since the server last answered."""
        return asyncio.get_running_loop().time() - self.used_at


def _notice_silence(connected: socket.socket | None) -> None:
    if connected is None or connected.family not in (socket.AF_INET, socket.AF_INET6):
        return
    with suppress(OSError):  # where the platform lacks an option, the bounds of each call remain
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _TCP_OPTIONS:
            if (option := getattr(socket, name, None)) is not None:
                connected.setsockopt(socket.IPPROTO_TCP, option, value)


class Hosts:
    """The servers of one URL. A store's connections share it, from any thread, so that a server that has
    worked is tried first by all of them."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._servers = address.servers()
        self._best = 0

    # Any: arguments of asyncpg.connect.
    async def connect(self, *, timeout: float = 60.0, **arguments: Any) -> Connection:
        """As `asyncpg.connect`; `timeout` (s) bounds the attempt at each server by itself. Servers are tried
        in their order, beginning with the last that worked; one that is silent delays the next by NEXT_AFTER.
        While one is silent, those that have failed are tried again, for `timeout` in all. Raises the error
        that explains most, see `_RANKING`."""
        loop, arguments = asyncio.get_running_loop(), {**arguments, "connection_class": Session}
        until = loop.time() + timeout
        left = [*range(self._best, len(self._servers)), *range(self._best)]
        failed: list[int] = []
        attempts: dict[asyncio.Task[Connection], int] = {}
        errors: list[BaseException] = []
        try:
            while left or attempts:
                if left:
                    at = left.pop(0)
                    attempt = begin_soon(self._attempt(at, timeout=timeout, **arguments))
                    attempts[attempt] = at
                done, _ = await asyncio.wait(
                    attempts, timeout=NEXT_AFTER, return_when=asyncio.FIRST_COMPLETED
                )
                for attempt in done:
                    at = attempts.pop(attempt)
                    if (error := attempt.exception()) is None:
                        self._best = at
                        return attempt.result()
                    errors.append(error)
                    failed.append(at)
                if not (done or left) and (rest := until - loop.time()) > 0:
                    left, failed, timeout = failed, [], rest
            raise _most_specific(errors)
        finally:
            await _give_up(attempts)

    async def _attempt(self, at: int, **arguments: Any) -> Connection:  # Any: as of `connect`
        try:
            return await asyncpg.connect(**self._servers[at], **arguments)
        except ValueError:  # asyncpg.ClientConfigurationError is one, too
            # Not chained: the driver quotes parts of the URL.
            why = "the driver does not take the value of an option, or the files that it names"
            raise self._address.refused(why) from None


async def _give_up(attempts: Iterable[asyncio.Task[Connection]]) -> None:
    for attempt in attempts:
        attempt.cancel()
    for answer in await asyncio.gather(*attempts, return_exceptions=True):
        if isinstance(answer, asyncpg.Connection):
            answer.terminate()


_RANKING = (Kind.mistake, Kind.refused, Kind.unavailable, Kind.standby)


def _most_specific(errors: list[BaseException]) -> BaseException:
    """A refusal explains more than a standby, and that more than a server that is away."""
    kinds = [fault_of(error).kind for error in errors]
    known = [kinds.index(kind) for kind in _RANKING if kind in kinds]
    return errors[known[0] if known else -1]
