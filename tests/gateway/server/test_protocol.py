"""Everything that a client sends or does not read is bounded in bytes and time, and gets at most one
response."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from coordinator.gateway.server.phases import Limits
from tests.support.raw import bounded, connected, served_by
from tests.support.waiting import wait_until

LIMITS = Limits()
QUICK = Limits(idle=0.3, head=0.3, request=0.3, linger=0.2, linger_longest=1.5, write=0.3)


class App:
    """Serves each path in its own way, and records the requests."""

    def __init__(self) -> None:
        self.headers: list[dict[bytes, bytes]] = []
        self.disconnected = 0
        self.go_on = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        body = b""
        if path in ("/", "/slow"):
            more = True
            while more:
                message = await receive()
                more, body = message.get("more_body", False), body + message.get("body", b"")
        self.headers.append(dict(scope["headers"]))
        if path == "/slow":
            await self.go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if path == "/endless":
            disconnected = asyncio.create_task(self._await_disconnect(receive))
            while not disconnected.done():
                await send({"type": "http.response.body", "body": b"x" * 65_536, "more_body": True})
            self.disconnected += 1
        last = b"y" * (8 << 20) if path == "/large" else b"%d of %s." % (len(body), path.encode())
        await send({"type": "http.response.body", "body": last})

    async def _await_disconnect(self, receive: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            """Reads the rest of the request."""


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
async def port(app: App) -> AsyncGenerator[int]:
    async with served_by(app, bounded(LIMITS)) as port:
        yield port


@pytest.fixture
async def quick(app: App) -> AsyncGenerator[int]:
    async with served_by(app, bounded(QUICK)) as port:
        yield port


async def answer(port: int, *pieces: bytes) -> bytes:
    """Returns everything that is received until the connection ends."""
    async with connected(port) as raw:
        for piece in pieces:
            await raw.send(piece)
        return await raw.closed()


def request(path: bytes = b"/", *headers: bytes, method: bytes = b"GET") -> bytes:
    return b"\r\n".join((method + b" " + path + b" HTTP/1.1", b"Host: localhost", *headers, b"", b""))


CLOSE = b"Connection: close"
CHUNKED = b"Transfer-Encoding: chunked"
HEAD = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
END = CLOSE + b"\r\n\r\n"


# -- heads


async def test_headers_within_the_bound_pass(port: int) -> None:
    filler = b"X: " + b"a" * (LIMITS.head_bytes - 5000)
    assert b" 200 " in await answer(port, request(b"/", filler, CLOSE))


async def test_blanks_around_a_header_value_are_stripped(port: int, app: App) -> None:
    assert b" 200 " in await answer(port, request(b"/", b"X-Key: \t a b \t ", CLOSE))
    assert app.headers[-1][b"x-key"] == b"a b"


async def test_response_without_a_body_is_complete_when_the_connection_closes(port: int) -> None:
    assert b" 200 " in await answer(port, request(b"/", CLOSE, method=b"HEAD"))


async def test_a_long_body_is_not_taken_for_headers(port: int) -> None:
    size = LIMITS.head_bytes * 4
    head = request(b"/", b"Content-Length: %d" % size, CLOSE, method=b"POST")
    assert b"%d of /." % size in await answer(port, head, *[b"x" * LIMITS.head_bytes] * 4)


async def test_tiny_chunks_are_not_taken_for_headers(port: int) -> None:
    head = request(b"/", CHUNKED, CLOSE, method=b"POST")
    assert b"20000 of /." in await answer(port, head + b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n")


@pytest.mark.parametrize(
    "pieces",
    [
        [HEAD, *[b"X: " + b"a" * 60_000 + b"\r\n"] * 50],
        [HEAD, *[b"a" * 60_000] * 50],
        [HEAD + b"X: " + b"a" * 250_000 + b"\r\n" + END],
        [HEAD + b"".join(b"X%d: a\r\n" % number for number in range(LIMITS.fields)) + END],
        [b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n"],
        [b"\r\n" * 60_000 + HEAD + END],
    ],
    ids=["many long", "one endless", "in one read", "many", "a long path", "blank lines before"],
)
async def test_too_large_head_is_refused(pieces: list[bytes], app: App, port: int) -> None:
    got = await answer(port, *pieces)
    assert b" 431 " in got or b" 400 " in got
    assert b" 200 " not in got
    assert app.headers == []


async def test_second_request_on_a_connection_has_the_same_bounds(port: int) -> None:
    got = await answer(port, request(), HEAD, *[b"X: " + b"a" * 60_000 + b"\r\n"] * 50)
    assert (got.count(b" 200 "), got.count(b" 431 ")) == (1, 1)
    assert (await answer(port, request(), HEAD + END)).count(b" 200 ") == 2


# -- trailers


@pytest.mark.parametrize(
    "name",
    ["x-api-key", "authorization", "host", "origin", "idempotency-key", "x-request-id", "x-forwarded-for",
     "x-authenticated-user"],
)  # fmt: skip
@pytest.mark.parametrize("together", [True, False], ids=["in one read", "after the head"])
async def test_trailers_are_dropped(name: str, together: bool, app: App, port: int) -> None:
    head = request(b"/", CHUNKED, CLOSE, method=b"POST")
    rest = b"2\r\n{}\r\n0\r\n" + name.encode() + b": forged\r\n\r\n"
    async with connected(port) as raw:
        if together:
            await raw.send(head + rest)
        else:
            await raw.send(head + b"2\r\n")
            await raw.send(rest.removeprefix(b"2\r\n"))
        assert b"2 of /." in await raw.closed()
    (seen,) = app.headers
    assert b"forged" not in seen.values()
    assert seen[b"host"] == b"localhost"


async def test_endless_trailers_close_the_connection(quick: int) -> None:
    """Trailers of a request with an early response, and of one whose response waits for them."""
    for path in (b"/early", b"/"):
        async with connected(quick) as raw:
            await raw.send(request(path, CHUNKED, method=b"POST") + b"0\r\n")
            sent = 0
            while sent < 64 << 20 and await raw.send(b"a: xxxxxxxx\r\n" * 1000):
                sent += 13_000
            await raw.closed()
            assert sent < 32 << 20  # most of these bytes are in buffers of the kernel


async def test_endless_chunk_extensions_close_the_connection(quick: int) -> None:
    for start in (b"0\r\na: ", b"1;a="):
        async with connected(quick) as raw:
            await raw.send(request(b"/", CHUNKED, method=b"POST") + start)
            while await raw.send(b"x" * 10_000):
                """Until the server closes the connection."""
            assert b" 200 " not in await raw.closed()


# -- timeouts


@pytest.mark.parametrize(
    ("begun", "more"),
    [
        (b"", b""),
        (b"", b"\r\n"),
        (b"GET /o", b"o"),
        (HEAD, b"a: b\r\n"),
        (request(b"/", b"Content-Length: 1000000", method=b"POST"), b"x"),
        (request(b"/", b"Content-Length: 1000000", method=b"POST"), b""),
        (request(b"/", CHUNKED, method=b"POST"), b"1\r\nx\r\n"),
        (request(b"/early", b"Content-Length: 1000000"), b"x"),
        (request(b"/early", b"Content-Length: 1000000"), b""),
        (request(b"/early", CHUNKED, method=b"POST"), b"1\r\nx\r\n"),
        (request(b"/early", CHUNKED, method=b"POST") + b"0\r\n", b"a: b\r\n"),
        (request(b"/endless-not", b"Content-Length: 10"), b""),
        (request(), b""),
        (request(), b"\r\n"),
        (request() + b"GET / HT", b""),
        (request(b"/early", CLOSE, b"Content-Length: 1000000"), b"x"),
        (b"GET / HTTP/1.0\r\n\r\n", b"x"),
        (b"nothing of HTTP\r\n\r\n", b"x"),
    ],
)
async def test_stalled_client_is_disconnected(begun: bytes, more: bytes, quick: int) -> None:
    async with connected(quick) as raw:
        await raw.send(begun)
        async with asyncio.timeout(15):
            await raw.drip(more, every=0.02)


async def test_slow_response_has_no_timeout(app: App, quick: int) -> None:
    async with connected(quick) as raw:
        await raw.send(request(b"/slow", CLOSE))
        await wait_until(lambda: app.headers, description="the app has the request")
        await asyncio.wait((raw.ended,), timeout=4 * QUICK.request)
        assert not raw.ended.done()
        app.go_on.set()
        assert b"0 of /slow." in await raw.closed()


# -- early responses


async def test_rest_of_an_answered_request_is_read_and_connection_stays_open(port: int) -> None:
    async with connected(port) as raw:
        for count in (1, 2):
            await raw.send(request(b"/early", b"Content-Length: 40000", method=b"POST"))
            await raw.has(b" of /early.", count)
            await raw.send(b"x" * 40_000)
        await raw.send(request(b"/", CLOSE))
        assert b"0 of /." in await raw.closed()


async def test_connection_stays_open_for_longer_than_the_rest_of_a_request_may_pause(app: App) -> None:
    async with served_by(app, bounded(Limits(linger=1.0))) as port, connected(port) as raw:
        await raw.send(request(b"/early", b"Content-Length: 1000", method=b"POST"))
        await raw.has(b" of /early.")
        await raw.send(b"x" * 1000)
        await asyncio.wait((raw.ended,), timeout=1.5)
        await raw.send(request(b"/", CLOSE))
        assert b"0 of /." in await raw.closed()


@pytest.mark.parametrize("header", [b"Connection: close", b"X: a"])
async def test_early_response_reaches_a_client_that_is_still_sending(header: bytes, quick: int) -> None:
    async with connected(quick) as raw:
        await raw.send(request(b"/early", b"Content-Length: 30000000", header, method=b"POST"))
        for _ in range(300):
            if not await raw.send(b"x" * 100_000):
                break
        assert b"0 of /early." in await raw.closed()


@pytest.mark.parametrize("header", [b"Connection: close", b"X: a"])
async def test_early_response_reaches_a_client_that_reads_after_it_has_sent_all(
    header: bytes, port: int
) -> None:
    size = 20_000_000

    def post() -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=15) as client:
            client.sendall(request(b"/early", b"Content-Length: %d" % size, header, method=b"POST"))
            for _ in range(size // 100_000):
                client.sendall(b"x" * 100_000)
            return client.recv(65_536)

    assert (await asyncio.to_thread(post)).startswith(b"HTTP/1.1 200 ")


async def test_rest_of_a_request_is_read_while_it_arrives(quick: int) -> None:
    """For longer than the server waits without a byte."""
    reader, writer = await asyncio.open_connection("127.0.0.1", quick)
    writer.write(request(b"/early", b"Content-Length: 1000000", CLOSE, method=b"POST"))
    assert b"0 of /early." in await reader.read()  # its sending side is closed
    lost = asyncio.create_task(writer.wait_closed())
    for _ in range(3 * 4):
        writer.write(b"x" * 10_000)
        await writer.drain()
        await asyncio.wait((lost,), timeout=QUICK.linger / 4)
        assert not lost.done()
    writer.close()
    await lost


async def test_invalid_body_gets_no_second_response(port: int) -> None:
    async with connected(port) as raw:
        await raw.send(request(b"/early", CHUNKED, method=b"POST"))
        await raw.has(b"of /early.")
        await raw.send(b"no chunk\r\n")
        assert (await raw.closed()).count(b"HTTP/1.1 ") == 1
    async with connected(port) as raw:
        await raw.send(request(b"/", CHUNKED, method=b"POST") + b"1\r\nx\r\n")
        await raw.send(b"no chunk\r\n")
        got = await raw.closed()
        assert (got.count(b"HTTP/1.1 "), b" 400 " in got) == (1, True)


# -- pipelining


async def test_pipelined_requests_are_answered_in_order(port: int) -> None:
    async with connected(port) as raw:
        await raw.send(b"".join(request(b"/early/%d" % number) for number in range(3000)))
        await raw.has(b" of /early/", 3000)
        order = [int(part.partition(b".")[0]) for part in raw.got.split(b" of /early/")[1:]]
        assert order == [*range(3000)]


async def test_pipelined_requests_wait_and_are_bounded(app: App, port: int) -> None:
    async with connected(port) as raw:
        await raw.send(request(b"/slow"))
        await wait_until(lambda: app.headers, description="the app has the request")
        body = b"x" * 100_000
        await raw.send(request(b"/", b"Content-Length: 100000", CLOSE, method=b"POST") + body)
        app.go_on.set()
        assert b"100000 of /." in await raw.closed()
    app.go_on.clear()
    app.headers.clear()
    async with connected(port) as raw:
        await raw.send(request(b"/slow"))
        await wait_until(lambda: app.headers, description="the app has the request")

        async def flood() -> None:
            while await raw.send(request(b"/early") * 1000):
                """Until the connection no longer accepts bytes."""

        flooding = asyncio.create_task(flood())
        done, _ = await asyncio.wait((flooding,), timeout=0.5)  # the buffers are full, or it is closed
        flooding.cancel()
        await asyncio.wait((flooding,))
        assert not done or raw.ended.done()
        assert len(app.headers) == 1
        app.go_on.set()


async def test_invalid_pipelined_request_is_answered_after_its_predecessor(app: App, port: int) -> None:
    async with connected(port) as raw:
        await raw.send(request(b"/slow") + b"nothing of HTTP\r\n\r\n")
        await wait_until(lambda: app.headers, description="the app has the request")
        app.go_on.set()
        got = await raw.closed()
        assert got.index(b"0 of /slow.") < got.index(b" 400 ")
        assert got.count(b"HTTP/1.1 ") == 2


# -- rules of HTTP


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"400"),
        (b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n", b"505"),
        (b"GET / HTTP/0.9\r\nHost: localhost\r\n\r\n", b"505"),
        (request(b"/", b"Expect: junk"), b"417"),
        (request(b"/", b"Expect: 100-continue, junk"), b"417"),
        (request(b"/", b"Content-Length: 1", CHUNKED), b"400"),
        (b"G\x00T / HTTP/1.1\r\n\r\n", b"400"),
    ],
)
async def test_invalid_requests_get_their_status(sent: bytes, status: bytes, app: App, port: int) -> None:
    got = await answer(port, sent)
    assert got.startswith(b"HTTP/1.1 " + status)
    assert app.headers == []


async def test_expect_100_continue_is_answered(port: int) -> None:
    async with connected(port) as raw:
        head = request(b"/", b"Expect: 100-Continue", b"Content-Length: 3", CLOSE, method=b"POST")
        await raw.send(head)
        await raw.has(b" 100 ")
        await raw.send(b"abc")
        assert b"3 of /." in await raw.closed()
    old = b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
    assert b" 100 " not in await answer(port, old + b"abc")


@pytest.mark.parametrize("head", [b"GET / HTTP/1.0", b"GET / HTTP/1.0\r\nConnection: keep-alive"])
async def test_response_of_unknown_length_ends_with_a_connection_of_http_1_0(head: bytes, port: int) -> None:
    got = await answer(port, head + b"\r\n\r\n")
    headers, body = got.lower().split(b"\r\n\r\n", 1)
    assert b"transfer-encoding" not in headers
    assert headers.count(b"connection: close") == 1
    assert body == b"0 of /."
    newer = await answer(port, request(b"/", CLOSE))
    assert b"transfer-encoding: chunked" in newer.lower()


# -- clients that do not read


@pytest.mark.parametrize("path", [b"/endless", b"/large"])
async def test_client_that_reads_nothing_is_disconnected(path: bytes, app: App, quick: int) -> None:
    """Also if the app has sent the whole response."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", quick))
        client.sendall(request(path))
        await wait_until(lambda: app.headers, description="the app has the request")
        if path == b"/endless":
            await wait_until(lambda: app.disconnected, description="the app receives the disconnect")
        client.setblocking(False)

        async def cut() -> bool:
            try:
                client.send(b"\r\n")
            except (ConnectionError, BrokenPipeError):
                return True
            return False

        await wait_until(cut, description="the connection is closed")


def slow_reader(port: int) -> socket.socket:
    """A client with a small receive buffer, which does not block."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
    client.connect(("127.0.0.1", port))
    client.setblocking(False)
    return client


async def test_slow_reader_receives_the_whole_response(quick: int) -> None:
    with slow_reader(quick) as client:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(client, request(b"/large", CLOSE))
        got = 0
        while data := await loop.sock_recv(client, 200_000):
            got += len(data)
            await asyncio.sleep(0.005)
        assert got > 8 << 20


async def test_client_that_reads_a_little_at_a_time_is_not_disconnected(app: App) -> None:
    """For several times as long as it may read nothing."""
    async with served_by(app, bounded(Limits(write=0.6))) as port:
        with slow_reader(port) as client:
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(client, request(b"/large", CLOSE))
            got = 0
            slow_until = loop.time() + 3
            while data := await loop.sock_recv(client, 20_000 if loop.time() < slow_until else 1 << 20):
                got += len(data)
                if loop.time() < slow_until:
                    await asyncio.sleep(0.02)
            assert got > 8 << 20


# -- bounds on connections


async def test_longest_waiting_connection_is_evicted(app: App) -> None:
    async with served_by(app, bounded(LIMITS, connections=4)) as port:
        mute = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
        slow = await asyncio.open_connection("127.0.0.1", port)
        assert await mute[0][0].read() == b""  # evicted for the fifth connection
        assert b" 200 " in await answer(port, request(b"/", CLOSE))
        assert await mute[1][0].read() == b""
        for _, writer in (*mute, slow):
            writer.close()


async def test_slow_bodies_do_not_block_new_clients(app: App) -> None:
    slow = request(b"/", b"Content-Length: 1000000", method=b"POST")
    async with served_by(app, bounded(LIMITS, connections=4)) as port:
        opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
        for _, writer in opened:
            writer.write(slow)
        async with connected(port) as new:
            assert await opened[0][0].read() == b""
            more = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
            await new.send(request(b"/", CLOSE))
            assert b" 200 " in await new.closed()
        for _, writer in (*opened, *more):
            writer.close()


async def test_requests_in_flight_are_not_evicted(app: App) -> None:
    async with served_by(app, bounded(LIMITS, connections=2)) as port:
        async with connected(port) as first, connected(port) as second:
            for raw in (first, second):
                await raw.send(request(b"/slow", CLOSE))
            await wait_until(lambda: len(app.headers) == 2, description="the app has both requests")
            got = await answer(port)
            assert got.startswith(b"HTTP/1.1 503 ")
            assert b"retry-after" in got
            app.go_on.set()
            for raw in (first, second):
                assert b"0 of /slow." in await raw.closed()
        assert b" 200 " in await answer(port, request(b"/", CLOSE))


async def test_incomplete_heads_of_all_connections_are_bounded_together(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.gateway.server.connections.MAX_UNREAD", 200_000)
    async with served_by(app, bounded(LIMITS, connections=100)) as port:
        opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(10)]
        for _, writer in opened:
            writer.write(HEAD + b"X: " + b"a" * 50_000)
            with suppress(ConnectionError):
                await writer.drain()
        assert await opened[0][0].read() == b""
        assert b" 200 " in await answer(port, request(b"/", CLOSE))
        for _, writer in opened:
            writer.close()


async def test_unread_responses_of_all_connections_are_bounded_together(
    port: int, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.gateway.server.connections.MAX_UNTAKEN", 20 << 20)
    with ExitStack() as stack:
        hoarders = [stack.enter_context(socket.socket()) for _ in range(20)]
        for one in hoarders:
            one.settimeout(20)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.connect(("127.0.0.1", port))
            one.sendall(request(b"/large"))
        await wait_until(lambda: len(app.headers) == 20, description="all are answered")
        assert b"0 of /." in await answer(port, request(b"/", CLOSE))
        for one in hoarders:
            one.shutdown(socket.SHUT_WR)  # no further request follows
        sizes = [await asyncio.to_thread(_read, one) for one in hoarders]
    whole = [size for size in sizes if size > 8 << 20]
    assert 1 <= len(whole) < 10, "the kernel buffers a part of each response; the rest waits in the process"


def _read(one: socket.socket) -> int:
    size = 0
    with suppress(ConnectionError):
        while data := one.recv(1 << 20):
            size += len(data)
    return size
