"""The connections of one server: their limits, and which ones are evicted when a limit is exceeded."""

from __future__ import annotations

import heapq
import logging
import time
from collections.abc import Iterable
from typing import Protocol
from weakref import WeakKeyDictionary

from coordinator.gateway.server.descriptors import room_for_connections

logger = logging.getLogger("coordinator.serve")

MAX_UNREAD = 32 << 20
"""Bytes that all connections of a server may buffer together: incomplete heads, and pipelined requests that
wait for an earlier response."""

MAX_UNTAKEN = 128 << 20
"""Bytes of responses that all clients of a server together may leave unread. One client that requests large
values on a hundred connections and reads none would else exhaust the memory before the write timeout."""

_EVICTED_PART = 32
"""When the limit is reached, 1/32 of the connections are evicted at once, so that the cost of finding them is
spread over as many new connections."""

_LOG_INTERVAL = 60.0  # s between two log lines of one kind
_BOUNDS = (
    "max_connections (COORDINATOR_MAX_CONNECTIONS) and the descriptors that this process may have (ulimit -n)"
    " bound them"
)


class Connection(Protocol):
    unread: int
    """Bytes that the connection buffers of incomplete or waiting requests."""

    @property
    def waits_since(self) -> float | None:
        """The time, on the loop's clock, since which the connection waits for its client to send. None if a
        complete request is being answered: such a connection is not evicted for a new one."""
        ...

    def evict(self) -> None:
        """Aborts the connection without a response."""
        ...

    def reject(self) -> None:
        """Responds with 503 and closes the connection."""
        ...


class Connections:
    """The open connections of one server. `limit` is at least 1."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._open: set[Connection] = set()
        self._unread = 0
        self._untaken: dict[Connection, int] = {}
        self._total_untaken = 0
        self._warned_at = self._refusals_logged_at = float("-inf")
        self._refusals = 0

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: Connection) -> None:
        """Adds a connection. At the limit, evicts those that have waited longest for their client; if none
        waits for its client, rejects `connection`."""
        if len(self._open) >= self.limit and not self._evict(self._open):
            self._warn(
                f"all {self.limit} connections have a request in flight: new ones are refused. {_BOUNDS}"
            )
            connection.reject()
            return
        self._open.add(connection)

    def remove(self, connection: Connection) -> None:
        """Removes a connection. Idempotent."""
        self._open.discard(connection)
        self._set_untaken(connection, 0)

    def add_unread(self, connection: Connection, growth: int) -> None:
        """Records that `connection.unread` has grown by `growth` bytes, negative if it shrank. Above
        `MAX_UNREAD`, evicts connections that buffer requests."""
        self._unread += growth
        if growth > 0 and self._unread > MAX_UNREAD:
            holding = [other for other in self._open if other.unread]
            if not self._evict(holding):
                connection.evict()

    def set_untaken(self, connection: Connection, untaken: int) -> None:
        """Records how many bytes of a response the client has not read; 0 if it has read all. Above
        `MAX_UNTAKEN`, evicts the connections with the most."""
        self._set_untaken(connection, untaken)
        while self._total_untaken > MAX_UNTAKEN:
            largest = max(self._untaken, key=self._untaken.__getitem__)
            self._set_untaken(largest, 0)
            self._warn(
                f"clients have left {MAX_UNTAKEN >> 20} MiB of responses unread: the connections with the"
                " most unread bytes are closed"
            )
            largest.evict()

    def note_refusal(self, client: str) -> None:
        """Counts a request that is not valid HTTP/1.1. The count is logged at most once per 60 s, because any
        client can cause it."""
        self._refusals += 1
        now = time.monotonic()
        if now - self._refusals_logged_at >= _LOG_INTERVAL:
            logger.warning(
                "%d requests were not valid HTTP/1.1 and were refused, the last one from %s",
                self._refusals,
                client,
            )
            self._refusals_logged_at, self._refusals = now, 0

    def _set_untaken(self, connection: Connection, untaken: int) -> None:
        self._total_untaken += untaken - self._untaken.pop(connection, 0)
        if untaken:
            self._untaken[connection] = untaken

    def _evict(self, candidates: Iterable[Connection]) -> bool:
        waiting = [
            (since, connection) for connection in candidates if (since := connection.waits_since) is not None
        ]
        count = max(1, self.limit // _EVICTED_PART)
        chosen = heapq.nsmallest(count, waiting, key=lambda pair: pair[0])
        for _, connection in chosen:
            self._open.discard(connection)
            connection.evict()
        if chosen:
            self._warn(
                f"{self.limit} connections are open, or buffer {self._unread >> 20} MiB of incomplete"
                f" requests: those that have waited longest for their client are closed. {_BOUNDS}"
            )
        return bool(chosen)

    def _warn(self, message: str) -> None:
        now = time.monotonic()
        if now - self._warned_at >= _LOG_INTERVAL:
            self._warned_at = now
            logger.warning("%s", message)


_by_server: WeakKeyDictionary[object, Connections] = WeakKeyDictionary()


def connections_of(server: object, limit: int | None) -> Connections:
    """Returns the connections of a server, identified by any object of its own. `limit` None = as many as the
    descriptors allow at the first connection."""
    connections = _by_server.get(server)
    if connections is None:
        connections = _by_server[server] = Connections(room_for_connections() if limit is None else limit)
    return connections
