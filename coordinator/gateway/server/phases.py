"""The phases of an HTTP connection, and the bounds of each in time and bytes.

phase       what is in progress                        bound                            when it is exceeded
idle        no byte of a request has arrived           75 s, blank lines included       closed
head        request line and headers                   30 s, 64 KiB, 100 fields         closed; 431
request     request body, before the response          65 s; framing of 64 KiB          closed; 431
answer      response                                   60 s without a read by the client    aborted
surplus     rest of the body, after an early response  2 s without a byte, 64 KiB       closed; lingering
lingering   the same; no response will follow          2 s without a byte, 30 s, 64 MiB closed
            rest of an invalid request                 2 s, 64 KiB                      closed
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Phase(Enum):
    """A connection in phase `closed` remains open only until its buffered output is written."""

    idle = "idle"
    head = "head"
    request = "request"
    answer = "answer"
    surplus = "surplus"
    lingering = "lingering"
    closed = "closed"


class Limits(NamedTuple):
    """Bounds of one connection. Times are in seconds, sizes in bytes."""

    idle: float = 75.0
    """Longer than proxies keep idle connections (60 s). The proxy closes them first, and so does not send a
    request on a connection that the server is closing. Browsers open connections in advance."""
    head: float = 30.0
    request: float = 65.0
    """From the last header to the end of the body. Longer than the gateway waits for a body (60 s), so that
    the client receives the gateway's error response."""
    linger: float = 2.0
    """How long the rest of a request with a response may bring no byte."""
    linger_longest: float = 30.0
    """How long it is read in all. Shorter than `request`: a slow body occupies a connection for longer before
    the response than after it."""
    write: float = 60.0
    """How long a client may read nothing of a response that is ready for it."""
    head_bytes: int = 64 << 10
    """Bound of the request line with headers, and of chunk frames with trailers."""
    fields: int = 100
    surplus_bytes: int = 64 << 10
    """How much of the rest is parsed, so that the connection can be used again."""
    linger_bytes: int = 64 << 20
    """How much of the rest is read in all, without being parsed. Many clients read the response when they
    have sent the whole body, and lose it if the connection is reset before."""
    held_bytes: int = 1 << 20

    def time_of(self, phase: Phase) -> float | None:
        """Returns the longest duration (s) of `phase`, or None if it is unbounded here."""
        match phase:
            case Phase.idle:
                return self.idle
            case Phase.head:
                return self.head
            case Phase.request:
                return self.request
            case Phase.surplus | Phase.lingering:
                return self.linger
            case Phase.answer | Phase.closed:
                return None
