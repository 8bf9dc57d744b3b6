"""RESP2, the wire protocol, as far as the link and the listener speak it.

`redis-py` opens connections. It is not used for commands: packing and reading through its client costs
several times what the rest of a call does, and a reply here is matched without a task or a future of its own.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

MAX_BULK = 1 << 20
_MAX_LINE = 1 << 16
_MAX_DEPTH = 8

_COLON, _DOLLAR, _STAR, _PLUS, _MINUS = b":$*+-"


class ReplyError(NamedTuple):
    """An error that the server answered with. A value: it answers one command and concerns no other."""

    text: str

    @property
    def code(self) -> str:
        return self.text.partition(" ")[0]


Reply: TypeAlias = "int | bytes | ReplyError | list[Reply] | None"


class ProtocolError(Exception):
    """The stream is not RESP2, or holds something too large to wait for. The connection is of no more use."""


def pack(*parts: bytes) -> bytes:
    """One command."""
    return b"*%d\r\n%b" % (len(parts), pack_parts(parts))


def pack_parts(parts: tuple[bytes, ...]) -> bytes:
    """Arguments without their command's header."""
    return b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts])


class Decoder:
    """Cuts a stream into replies. One per connection."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Reply]:
        """Every reply that is now complete, in order. Raises `ProtocolError`."""
        if self._rest:
            data = self._rest + data
        replies: list[Reply] = []
        start, end = 0, len(data)
        try:
            while start < end:
                reply, after = _parse(data, start, 0)
                if after < 0:
                    break
                replies.append(reply)
                start = after
        except ValueError as error:
            raise ProtocolError("not RESP2") from error
        self._rest = data[start:]
        return replies


def _parse(data: bytes, start: int, depth: int) -> tuple[Reply, int]:
    """The reply at `start` and where the next begins, or -1 where it is not complete yet."""
    line_end = data.find(b"\r\n", start)
    if line_end < 0:
        if len(data) - start > _MAX_LINE:
            raise ProtocolError("a line without an end")
        return None, -1
    kind = data[start]
    line = data[start + 1 : line_end]
    after = line_end + 2
    if kind == _COLON:
        return int(line), after
    if kind == _DOLLAR:
        return _parse_bulk(data, int(line), after)
    if kind == _PLUS:
        return line, after
    if kind == _MINUS:
        return ReplyError(line.decode("utf-8", "replace")), after
    if kind == _STAR:
        return _parse_array(data, int(line), after, depth + 1)
    raise ProtocolError("not RESP2")


def _parse_bulk(data: bytes, size: int, start: int) -> tuple[Reply, int]:
    if size < 0:
        return None, start
    if size > MAX_BULK:
        raise ProtocolError("a value too large")
    end = start + size
    if len(data) < end + 2:
        return None, -1
    return data[start:end], end + 2


def _parse_array(data: bytes, size: int, start: int, depth: int) -> tuple[Reply, int]:
    if depth > _MAX_DEPTH:
        raise ProtocolError("nested too deeply")
    if size < 0:
        return None, start
    items: list[Reply] = []
    for _ in range(size):
        item, start = _parse(data, start, depth)
        if start < 0:
            return None, -1
        items.append(item)
    return items, start
