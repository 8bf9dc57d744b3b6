"""A hostile connection: what it sends, piece by piece, from a seed and a number."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random

from tests.hostile.requests import Known

BENT = "bent bytes"
FLOOD = 300_000  # bytes; more than any bound
ENDED_WITHIN = 30.0  # s
TRAILERS = (
    b"X-Api-Key: forged", b"Authorization: Bearer forged", b"Host: evil.example", b"Origin: http://evil.example",
    b"X-Request-Id: forged", b"Idempotency-Key: forged", b"X-Forwarded-For: 6.6.6.6", b"Content-Length: 5",
    b"Transfer-Encoding: chunked", b"\xff\xfe: x", b" folded", b"no colon", b"a: " + b"x" * 5000,
)  # fmt: skip


@dataclass
class Plan:
    """Bytes that are sent in pieces, with a delay after each. `ends`: the client waits for the responses,
    shuts down its sending side, or resets the connection. `answers`: the expected responses in their order,
    at most."""

    kind: str
    pieces: list[bytes]
    pause: float = 0.0
    ends: str = "waits"
    answers: list[str] = field(default_factory=list[str])
    """Ids of the requests that may have an answer."""
    whole: bool = False
    """The first of them is complete, or is answered before it is: no answer is a failure."""


@dataclass
class Outcome:
    statuses: list[str]
    ids: list[str]
    text: bytes
    waited: float
    """Seconds from the last byte that was sent to the first of an answer; 0 where none came."""
    closed: bool


def plan(seed: int, number: int, known: Known) -> Plan:
    """Returns the same plan for the same seed and number."""
    rng = Random(f"connection {seed} {number}")
    kind, build = rng.choices(_KINDS, _WEIGHTS)[0]
    made = build(rng, known)
    made.kind = kind
    return made


def _head(
    rng: Random, known: Known, number: int, *headers: bytes, path: bytes = b"/ok", method: bytes = b"GET"
) -> bytes:
    key = [b"X-Api-Key: " + known.key.encode()] if rng.random() < 0.5 else []
    own = (b"Host: " + known.host.encode(), b"X-Request-Id: r%d" % number)
    return b"\r\n".join((method + b" " + path + b" HTTP/1.1", *own, *key, *headers, b"", b""))


def _chunks(rng: Random, body: bytes) -> bytes:
    sent = b""
    while body:
        size = rng.randrange(1, len(body) + 1)
        extension = rng.choice((b"", b"", b";a=b", b";" + b"x" * 50))
        sent, body = sent + b"%x%s\r\n%s\r\n" % (size, extension, body[:size]), body[size:]
    return sent + b"0\r\n"


def _whole(rng: Random, known: Known, number: int) -> bytes:
    """One complete request, answered at once."""
    path = rng.choice((b"/ok", b"/info", b"/nowhere", b"/threads/count", b"/coordinator/health/live"))
    if rng.random() < 0.6:
        return _head(rng, known, number, path=path)
    body = rng.choice((b"{}", b"[", b"x" * rng.randrange(1, 9000)))
    if rng.random() < 0.5:
        return _head(rng, known, number, b"Content-Length: %d" % len(body), path=path, method=b"POST") + body
    coded = b"Transfer-Encoding: chunked"
    return _head(rng, known, number, coded, path=path, method=b"POST") + _chunks(rng, body) + b"\r\n"


def _split(rng: Random, data: bytes, most: int) -> list[bytes]:
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(most)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def _pipelining(rng: Random, known: Known) -> Plan:
    count = rng.choice((2, 3, 10, 100))
    sent = b"".join(_whole(rng, known, number) for number in range(count))
    if rng.random() < 0.3:
        sent += rng.choice((b"junk\r\n\r\n", b"GET /ok HTTP/2.0\r\n\r\n", b"GET /ok HT", b"\r\n" * 100))
    expected = [f"r{number}" for number in range(count)]
    return Plan("", _split(rng, sent, 6), 0.002, answers=expected, whole=True)


def _trailers(rng: Random, known: Known) -> Plan:
    method = rng.choice((b"GET", b"POST"))
    path = rng.choice((b"/ok", b"/threads/count", b"/threads"))
    head = _head(rng, known, 0, b"Transfer-Encoding: chunked", path=path, method=method)
    some = b"".join(rng.choice(TRAILERS) + b"\r\n" for _ in range(rng.randrange(1, 8)))
    if rng.random() < 0.3:
        some = some * (FLOOD // len(some))
    return Plan("", _split(rng, head + _chunks(rng, b"{}") + some + b"\r\n", 4), 0.005, answers=["r0"])


def _drops(rng: Random, known: Known) -> Plan:
    sent = _whole(rng, known, 0)
    begin = rng.randrange(max(1, len(sent) - 40))
    pieces = [sent[:begin], *(sent[at : at + 1] for at in range(begin, min(begin + 40, len(sent))))]
    return Plan("", [*pieces, sent[begin + 40 :]], 0.003, answers=["r0"], whole=True)


def _halves(rng: Random, known: Known) -> Plan:
    sent = b"".join(_whole(rng, known, number) for number in range(rng.randrange(1, 4)))
    cut = rng.choice((len(sent), rng.randrange(len(sent) + 1)))
    ends = rng.choice(("shuts", "resets"))
    return Plan("", _split(rng, sent[:cut], 3), 0.003, ends, answers=["r0", "r1", "r2", "r3"])


def _endless(rng: Random, known: Known) -> Plan:
    start = rng.choice((b"", b"GET /ok HTTP/1.1\r\n", _head(rng, known, 0)[:-2], b"GET /"))
    line = rng.choice(
        (b"a: b\r\n", b"a" * 1000, b"\r\n", b"\x00", b"a: " + b"b" * 3000 + b"\r\n", b" \t", b"\n")
    )
    return Plan("", [start, *[line * (10_000 // len(line))] * (FLOOD // 10_000)], answers=["r0"])


def _early(rng: Random, known: Known) -> Plan:
    size = rng.choice((10, 5000, 60_000, 200_000, 6_000_000))
    path = rng.choice((b"/ok", b"/nowhere", b"/threads", b"/threads/count"))
    head = _head(rng, known, 0, b"Content-Length: %d" % size, path=path, method=b"POST")
    sent = min(size, rng.choice((0, 1, 4000, 100_000, 1_000_000)))
    pieces = [head, b"x" * sent]
    if sent == size:
        pieces.append(_head(rng, known, 1))
    whole = sent == size or path in (b"/ok", b"/nowhere")
    return Plan("", pieces, rng.choice((0.0, 0.02)), answers=["r0", "r1"], whole=whole)


def _bent(rng: Random, known: Known) -> Plan:
    sent = bytearray(b"".join(_whole(rng, known, number) for number in range(rng.randrange(1, 3))))
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(sent))
        piece = rng.choice((b"\r\n", b"\n", b"\r", b"\x00", b":", b" ", b"0", b"\xff", b";", b"HTTP/1.0"))
        sent[at : at + rng.randrange(3)] = piece * rng.randrange(3)
    return Plan("", _split(rng, bytes(sent), 4), 0.002, rng.choice(("waits", "shuts")), ["r0", "r1"])


_KINDS: tuple[tuple[str, Callable[[Random, Known], Plan]], ...] = (
    ("pipelining", _pipelining),
    ("trailers", _trailers),
    ("drops of a byte", _drops),
    ("half-closed", _halves),
    ("endless head", _endless),
    ("early answer", _early),
    (BENT, _bent),
)
_WEIGHTS = (10, 15, 10, 15, 8, 15, 27)


async def carry_out(made: Plan, port: int) -> Outcome:
    """Returns when all responses are received, when none is required and none arrives for 0.3 s, or when the
    server has closed the connection."""
    loop = asyncio.get_running_loop()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    text, first, closed = bytearray(), 0.0, asyncio.Event()
    news = asyncio.Event()

    async def read() -> None:
        nonlocal first
        with suppress(ConnectionError):
            while data := await reader.read(65_536):
                first = first or loop.time()
                text.extend(data)
                news.set()
        closed.set()
        news.set()

    reading = asyncio.create_task(read())
    try:
        await _write(made, writer)
        sent = loop.time()
        with suppress(TimeoutError):
            async with asyncio.timeout(ENDED_WITHIN):
                await _answered(made, text, news, closed)
    finally:
        reading.cancel()
        writer.transport.abort()
        await asyncio.wait((reading,))
    statuses, ids = _answers(bytes(text))
    waited = max(0.0, first - sent) if first else 0.0
    return Outcome(statuses, ids, bytes(text), waited, closed.is_set())


async def _write(made: Plan, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        for piece in made.pieces:
            writer.write(piece)
            await asyncio.wait_for(writer.drain(), 5)
            if made.pause:
                await asyncio.sleep(made.pause)
        if made.ends == "shuts":
            writer.write_eof()
        elif made.ends == "resets":
            writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            writer.transport.abort()


async def _answered(made: Plan, text: bytearray, news: asyncio.Event, closed: asyncio.Event) -> None:
    while not closed.is_set() and made.ends != "resets":
        if len(_answers(bytes(text))[0]) >= len(made.answers):
            return
        news.clear()
        try:
            await asyncio.wait_for(news.wait(), 0.3 if text or not made.whole else ENDED_WITHIN)
        except TimeoutError:
            return


def _answers(text: bytes) -> tuple[list[str], list[str]]:
    """Returns the statuses of the responses and the ids of their requests."""
    heads = [part for part in text.split(b"HTTP/1.1 ")[1:] if not part.startswith(b"100 ")]
    ids = [
        line.partition(b": ")[2].decode("latin-1")
        for head in heads
        for line in head.split(b"\r\n")
        if line.startswith(b"x-request-id: ")
    ]
    return [head[:3].decode("latin-1") for head in heads], ids
