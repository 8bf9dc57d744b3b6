"""How many values a body has. Each costs the event loop time, however few bytes it takes."""

from __future__ import annotations

import re

MAX_VALUES = 200_000
"""4 MiB of numbers, or of texts of 20 characters: read and checked in 50 ms."""

_QUOTE = 0x22
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[{,]', re.DOTALL)
"""A string, also one that does not end, or what comes before a value."""


def at_most(body: bytes) -> int:
    """No more than so many values; texts may hold what looks like more of them."""
    return body.count(b",") + body.count(b"[") + body.count(b"{") + 1


def exceeds(body: bytes, limit: int) -> bool:
    """Has it more values than that? Takes up to some tenths of a second, for which other threads go on."""
    values = 1
    for token in _TOKEN.finditer(body):
        if body[token.start()] != _QUOTE:
            values += 1
            if values > limit:
                return True
    return False
