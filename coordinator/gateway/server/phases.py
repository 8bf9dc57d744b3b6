"""The phases of a connection, and how much and how long each may take.

phase       what is open                               bound                            then
idle        no byte of a request has come              75 s, blank lines included       closed
head        its line and headers                       30 s, 64 KiB, 100 fields         closed; 431
request     its body, before it is answered            65 s; what is not body: 64 KiB   closed; 431
answer      its answer                                 a client that reads nothing: 60 s    cut
surplus     its rest, after an early answer            2 s, 64 KiB                      lingering
lingering   the same, and no answer will follow        2 s since the answer, 64 KiB     closed
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Phase(Enum):
    """`closed`: only what is still to be written keeps it."""

    idle = "idle"
    head = "head"
    request = "request"
    answer = "answer"
    surplus = "surplus"
    lingering = "lingering"
    closed = "closed"


class Limits(NamedTuple):
    """Times are seconds, sizes bytes."""

    idle: float = 75.0
    """Longer than proxies keep their idle connections (60 s), so that they are the ones to close them, and
    none sends a request into a connection that is being closed. Browsers open some in advance."""
    head: float = 30.0
    request: float = 65.0
    """From the last header to the end of the body. Longer than the gateway waits for a body (60 s), so that
    its client is told."""
    linger: float = 2.0
    write: float = 60.0
    """How long a client may take nothing of what waits for it."""
    head_bytes: int = 64 << 10
    """Of a request's line and headers; of its chunks' frames and trailers."""
    fields: int = 100
    linger_bytes: int = 64 << 10
    held_bytes: int = 1 << 20

    def time_of(self, phase: Phase) -> float | None:
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
