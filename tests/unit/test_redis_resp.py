from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.redis.resp import MAX_BULK, Decoder, ProtocolError, Reply, ReplyError, pack
from tests.support.inside import bytes_kept_by

REPLIES: list[tuple[bytes, Reply]] = [
    (b"+PONG\r\n", b"PONG"),
    (b":-7\r\n", -7),
    (b"$3\r\na\r\n\r\n", b"a\r\n"),
    (b"$0\r\n\r\n", b""),
    (b"$-1\r\n", None),
    (b"*-1\r\n", None),
    (b"*0\r\n", []),
    (b"*3\r\n$7\r\nmessage\r\n*1\r\n:1\r\n-ERR x\r\n", [b"message", [1], ReplyError("ERR x")]),
    (b"-NOSCRIPT No matching script.\r\n", ReplyError("NOSCRIPT No matching script.")),
]


@pytest.mark.parametrize(("data", "reply"), REPLIES)
def test_a_reply_is_read(data: bytes, reply: Reply) -> None:
    assert Decoder().feed(data) == [reply]


@given(st.lists(st.integers(1, 12), min_size=1, max_size=60))
def test_replies_split_at_any_byte_are_read(sizes: list[int]) -> None:
    data = b"".join(data for data, _ in REPLIES)
    decoder, replies, start = Decoder(), list[Reply](), 0
    for size in sizes:
        replies += decoder.feed(data[start : start + size])
        start += size
    replies += decoder.feed(data[start:])
    assert replies == [reply for _, reply in REPLIES]


@pytest.mark.parametrize(
    "data",
    [
        b"?\r\n",
        b"\r\n",
        b":x\r\n",
        b"$x\r\n",
        b"*x\r\n",
        b":+7\r\n",
        b": 7\r\n",
        b":1_0\r\n",
        b":\r\n",
        b":-\r\n",
        b":%b\r\n" % (b"9" * 5000),
        b"$-5\r\n",
        b"$ 1\r\nx\r\n",
        b"$1\r\nxyz\r\n",
        b"*-9\r\n",
        b"*%d\r\n" % (1 << 40),
        b"HTTP/1.1 400 Bad Request\r\n",
        b"$%d\r\n" % (MAX_BULK + 1),
        b"*1\r\n" * 10_000,
        b"+" + b"x" * 100_000,
    ],
    ids=lambda data: repr(data[:12]),
)
def test_what_is_no_reply_is_an_error_and_not_waited_for(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        Decoder().feed(data)


def test_replies_before_garbage_are_not_lost() -> None:
    with pytest.raises(ProtocolError) as broken:
        Decoder().feed(b":1\r\n*2\r\n:2\r\n:3\r\n*2\r\n:4\r\n?\r\n")
    assert broken.value.replies == [1, [2, 3]]


def test_items_of_a_long_array_are_read_once() -> None:
    data = b"*100000\r\n" + b"$3\r\nabc\r\n" * 100_000
    decoder, kept, replies = Decoder(), 0, list[Reply]()
    for start in range(0, len(data), 4096):
        replies += decoder.feed(data[start : start + 4096])
        kept = max(kept, bytes_kept_by(decoder))
    assert replies == [[b"abc"] * 100_000]
    assert kept < 16, "only an item that is cut waits for the next read"


def test_array_is_bounded_as_a_whole() -> None:
    decoder = Decoder()
    piece = b"$%d\r\n%b\r\n" % (1 << 20, b"x" * (1 << 20))
    decoder.feed(b"*100\r\n")
    for _ in range(16 - 1):
        assert decoder.feed(piece) == []
    with pytest.raises(ProtocolError, match="too large"):
        decoder.feed(piece)


@given(st.binary(max_size=200))
def test_any_other_bytes_end_in_the_same_error(data: bytes) -> None:
    with suppress(ProtocolError):
        Decoder().feed(data)


def test_an_error_has_a_code() -> None:
    assert ReplyError("READONLY You can't write").code == "READONLY"
    assert ReplyError("").code == ""


def test_commands_are_packed_by_length() -> None:
    assert pack(b"SET", b"a\r\nb", b"") == b"*3\r\n$3\r\nSET\r\n$4\r\na\r\nb\r\n$0\r\n\r\n"
