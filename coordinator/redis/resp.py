"""RESP2, the wire protocol: the subset that the link and the listener use.

`redis-py` opens connections, but is not used for commands: its encoding and decoding would cost several times
as much as the rest of a call. A reply here needs no task or future of its own.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

MAX_BULK = 8 << 20
_MAX_LINE = 1 << 16
_MAX_DEPTH = 8
_MAX_DIGITS = 20
_MAX_ITEMS = 1 << 17
_MAX_REPLY = 16 << 20
"""Bytes of one array. The largest replies are pages of a log."""

_COLON, _DOLLAR, _STAR, _PLUS, _MINUS = b":$*+-"


class ReplyError(NamedTuple):
    """An error reply. It is a value and not an exception, because it concerns one command only."""

    text: str

    @property
    def code(self) -> str:
        return self.text.partition(" ")[0]


Reply: TypeAlias = "int | bytes | ReplyError | list[Reply] | None"


class ProtocolError(Exception):
    """The stream is not RESP2, or exceeds a limit. The connection must be closed. `replies` were complete
    before the error."""

    def __init__(self, text: str, replies: list[Reply] | None = None) -> None:
        super().__init__(text)
        self.replies: list[Reply] = replies or []


def pack(*parts: bytes) -> bytes:
    """Encodes one command."""
    return b"*%d\r\n%b" % (len(parts), pack_parts(parts))


def pack_parts(parts: tuple[bytes, ...]) -> bytes:
    """Encodes arguments without the header of a command."""
    return b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts])


class _Array:
    """An incomplete array."""

    __slots__ = ("items", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.items: list[Reply] = []


class Decoder:
    """Splits the stream of one connection into replies. A value that is incomplete is parsed again when more
    data arrives."""

    def __init__(self) -> None:
        self._rest = b""
        self._arrays: list[_Array] = []  # incomplete, the outermost first
        self._open_bytes = 0

    def feed(self, data: bytes) -> list[Reply]:
        """Returns the replies that `data` completes, in order. Raises ProtocolError."""
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
        """Parses the value, or the head of an array, at `start`. Returns the offset of the next one, or -1 if
        the value is incomplete."""
        line_end = data.find(b"\r\n", start)
        if line_end < 0:
            if len(data) - start > _MAX_LINE:
                raise ProtocolError("a line is too long")
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
        """Adds a complete value to its array, and completes the arrays of which it is the last item."""
        arrays = self._arrays
        while arrays:
            array = arrays[-1]
            array.items.append(value)
            if len(array.items) < array.size:
                self._open_bytes += size
                if self._open_bytes > _MAX_REPLY:
                    raise ProtocolError("a reply is too large")
                return
            value = arrays.pop().items
        self._open_bytes = 0
        replies.append(value)


def _bulk(data: bytes, size: int, start: int) -> tuple[bytes | None, int]:
    """Returns the value and the offset of the next one, or -1 if the value is incomplete."""
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
    """Parses a length; -1 = nil. Raises ProtocolError above `limit`."""
    if line == b"-1":
        return -1
    if not line.isdigit() or len(line) > _MAX_DIGITS:
        raise ProtocolError("not RESP2")
    if (size := int(line)) > limit:
        raise ProtocolError("a value is too large")
    return size
