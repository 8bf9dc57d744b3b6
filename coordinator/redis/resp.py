"""RESP2, the wire protocol, as far as the link and the listener speak it.

`redis-py` opens connections. It is not used for commands: packing and reading through its client costs
several times what the rest of a call does, and a reply here is matched without a task or a future of its own.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

MAX_BULK = 1 << 20
_MAX_LINE = 1 << 16
_MAX_DEPTH = 8
_MAX_DIGITS = 20
_MAX_ITEMS = 1 << 17
_MAX_REPLY = 16 << 20
"""Bytes of one array. A page of a log has a little more than one event of the largest size."""

_COLON, _DOLLAR, _STAR, _PLUS, _MINUS = b":$*+-"


class ReplyError(NamedTuple):
    """An error that the server answered with. A value: it answers one command and concerns no other."""

    text: str

    @property
    def code(self) -> str:
        return self.text.partition(" ")[0]


Reply: TypeAlias = "int | bytes | ReplyError | list[Reply] | None"


class ProtocolError(Exception):
    """The stream is not RESP2, or holds something too large to wait for. The connection is of no more use.
    `replies` came before that."""

    def __init__(self, text: str, replies: list[Reply] | None = None) -> None:
        super().__init__(text)
        self.replies: list[Reply] = replies or []


def pack(*parts: bytes) -> bytes:
    """One command."""
    return b"*%d\r\n%b" % (len(parts), pack_parts(parts))


def pack_parts(parts: tuple[bytes, ...]) -> bytes:
    """Arguments without their command's header."""
    return b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts])


class _Array:
    """An array of which some items have come."""

    __slots__ = ("items", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.items: list[Reply] = []


class Decoder:
    """Cuts a stream into replies, and reads each byte once. One per connection."""

    def __init__(self) -> None:
        self._rest = b""
        self._arrays: list[_Array] = []  # the open ones, the outermost first
        self._open_bytes = 0

    def feed(self, data: bytes) -> list[Reply]:
        """Every reply that is now complete, in order. Raises `ProtocolError`."""
        if self._rest:
            data = self._rest + data
        replies: list[Reply] = []
        start, end = 0, len(data)
        try:
            while start < end:
                after = self._read(data, start, replies)
                if after < 0:
                    break
                start = after
        except ProtocolError as error:
            error.replies = replies
            raise
        self._rest = data[start:]
        return replies

    def _read(self, data: bytes, start: int, replies: list[Reply]) -> int:
        """Read the value at `start`, or the head of an array. Returns where the next begins, or -1 where it
        is not complete yet."""
        line_end = data.find(b"\r\n", start)
        if line_end < 0:
            if len(data) - start > _MAX_LINE:
                raise ProtocolError("a line without an end")
            return -1
        kind, line, after = data[start], data[start + 1 : line_end], line_end + 2
        value: Reply
        if kind == _DOLLAR:
            value, after = _bulk(data, _size(line), after)
            if after < 0:
                return -1
        elif kind == _STAR:
            if (size := _size(line, _MAX_ITEMS)) > 0:
                self._open(size)
                return after
            value = None if size < 0 else []
        else:
            value = _simple(kind, line)
        self._take(value, after - start, replies)
        return after

    def _open(self, size: int) -> None:
        if len(self._arrays) >= _MAX_DEPTH:
            raise ProtocolError("nested too deeply")
        self._arrays.append(_Array(size))

    def _take(self, value: Reply, size: int, replies: list[Reply]) -> None:
        """A value is complete, and with it perhaps the arrays that it is the last of."""
        arrays = self._arrays
        while arrays:
            array = arrays[-1]
            array.items.append(value)
            if len(array.items) < array.size:
                self._open_bytes += size
                if self._open_bytes > _MAX_REPLY:
                    raise ProtocolError("a reply too large")
                return
            value = arrays.pop().items
        self._open_bytes = 0
        replies.append(value)


def _bulk(data: bytes, size: int, start: int) -> tuple[bytes | None, int]:
    """The value and where the next begins, or -1 where it is not complete yet."""
    if size < 0:
        return None, start
    end = start + size
    if len(data) < end + 2:
        return None, -1
    if data[end : end + 2] != b"\r\n":
        raise ProtocolError("not RESP2")
    return data[start:end], end + 2


def _simple(kind: int, line: bytes) -> Reply:
    if kind == _COLON:
        return _integer(line)
    if kind == _PLUS:
        return line
    if kind == _MINUS:
        return ReplyError(line.decode("utf-8", "replace"))
    raise ProtocolError("not RESP2")


def _integer(line: bytes) -> int:
    digits = line[1:] if line[:1] == b"-" else line
    if not digits.isdigit() or len(digits) > _MAX_DIGITS:
        raise ProtocolError("not RESP2")
    return int(line)


def _size(line: bytes, limit: int = MAX_BULK) -> int:
    """-1 = there is no value."""
    if line == b"-1":
        return -1
    if not line.isdigit() or len(line) > _MAX_DIGITS:
        raise ProtocolError("not RESP2")
    if (size := int(line)) > limit:
        raise ProtocolError("a value too large")
    return size
