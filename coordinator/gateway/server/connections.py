"""The connections of one server: how many there may be, and which end when there is no room for another."""

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
"""Bytes of heads that are incomplete, and of requests that wait for the answer to another one on their
connection, that all connections of a server hold together."""

MAX_UNTAKEN = 128 << 20
"""Bytes of answers that the clients of all connections of a server have not taken. One user's large values,
asked for on a hundred connections that nobody reads, would fill the memory long before they are given up."""

_SHARE = 32
"""One connection in so many ends when there is no room: the search for them is then paid for by as many
new connections."""

_SILENCE = 60.0  # s between two log lines about it
_BOUNDS = (
    "max_connections (COORDINATOR_MAX_CONNECTIONS) and the descriptors that this process may have (ulimit -n)"
    " bound them"
)


class Connection(Protocol):
    unread: int
    """Bytes that it holds of what is no complete request."""

    @property
    def waits_since(self) -> float | None:
        """Since when the client has had to send, on the loop's clock. None = it has a complete request, and
        is not ended for another one."""
        ...

    def evict(self) -> None:
        """End at once, without an answer."""
        ...

    def turn_away(self) -> None:
        """Answer that there is no room, and end."""
        ...


class Connections:
    """What one server has open. `limit` is at least 1."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._open: set[Connection] = set()
        self._unread = 0
        self._untaken: dict[Connection, int] = {}
        self._all_untaken = 0
        self._told_at = self._refusals_told_at = float("-inf")
        self._refusals = 0

    def __len__(self) -> int:
        return len(self._open)

    def add(self, one: Connection) -> None:
        """Where it is one too many, those end whose clients have had to send for longest; where none has to,
        this one."""
        if len(self._open) >= self.limit and not self._evict(self._open):
            self._tell(
                f"{self.limit} connections have requests that are being answered: more are refused. {_BOUNDS}"
            )
            one.turn_away()
            return
        self._open.add(one)

    def remove(self, one: Connection) -> None:
        """Idempotent."""
        self._open.discard(one)
        self._set_untaken(one, 0)

    def hold(self, one: Connection, more: int) -> None:
        """Its `unread` has grown by so many bytes; negative for fewer."""
        self._unread += more
        if more > 0 and self._unread > MAX_UNREAD:
            holding = [other for other in self._open if other.unread]
            if not self._evict(holding):
                one.evict()

    def waits_for_client(self, one: Connection, untaken: int) -> None:
        """So many bytes of its answer wait until the client takes them; 0 = none any more. Where all of them
        are too many, those end that have most."""
        self._set_untaken(one, untaken)
        while self._all_untaken > MAX_UNTAKEN:
            largest = max(self._untaken, key=self._untaken.__getitem__)
            self._set_untaken(largest, 0)
            self._tell(
                f"Clients have not taken {MAX_UNTAKEN >> 20} MiB of answers: those with most of it are cut"
            )
            largest.evict()

    def note_refusal(self, client: str) -> None:
        """It sent what is no request of HTTP/1.1. Logged once in a while, with how many there were: whoever
        can connect can do so."""
        self._refusals += 1
        now = time.monotonic()
        if now - self._refusals_told_at >= _SILENCE:
            logger.warning(
                "%d requests were no HTTP/1.1 and were refused, the last one from %s", self._refusals, client
            )
            self._refusals_told_at, self._refusals = now, 0

    def _set_untaken(self, one: Connection, untaken: int) -> None:
        self._all_untaken += untaken - self._untaken.pop(one, 0)
        if untaken:
            self._untaken[one] = untaken

    def _evict(self, among: Iterable[Connection]) -> bool:
        waiting = [(since, one) for one in among if (since := one.waits_since) is not None]
        count = max(1, self.limit // _SHARE)
        chosen = heapq.nsmallest(count, waiting, key=lambda pair: pair[0])
        for _, one in chosen:
            self._open.discard(one)
            one.evict()
        if chosen:
            self._tell(
                f"{self.limit} connections are open, or hold {self._unread >> 20} MiB of incomplete requests:"
                f" those that have waited longest for a request are closed to make room. {_BOUNDS}"
            )
        return bool(chosen)

    def _tell(self, what: str) -> None:
        now = time.monotonic()
        if now - self._told_at >= _SILENCE:
            self._told_at = now
            logger.warning("%s", what)


_of: WeakKeyDictionary[object, Connections] = WeakKeyDictionary()


def connections_of(server: object, limit: int | None) -> Connections:
    """Those of a server, by any object that it alone has. `limit` None = what its descriptors allow when the
    first one comes."""
    found = _of.get(server)
    if found is None:
        found = _of[server] = Connections(room_for_connections() if limit is None else limit)
    return found
