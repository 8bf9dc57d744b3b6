"""One request to one receiver: it goes to the address that was checked, and no response holds it up."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Sequence

import pytest

from coordinator.webhooks.client import Client
from coordinator.webhooks.lookups import LookUp, Lookups
from coordinator.webhooks.targets import NotReached, TargetRefused, Targets
from tests.support.names import slow_names
from tests.support.receiver import CERTIFICATES, receiving, status
from tests.support.waiting import wait_until

HEADERS = {"webhook-id": "r1"}
BODY = b'{"a":1}'


class Names:
    """A name server that returns `answers` in order, and the last of them for every further query."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.queried: list[str] = []

    def __call__(self, host: str, port: int) -> list[str]:
        self.queried.append(host)
        return list(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])


def client(
    names: LookUp | None = None, *, private: bool = True, timeout: float = 5.0, tls: bool = False
) -> Client:
    trusted = ssl.create_default_context(cafile=str(CERTIFICATES / "receiver.pem")) if tls else None
    ports = frozenset(range(1, 65536))
    targets = Targets(allow_private=private, ports=ports, lookups=Lookups(names or Names(["127.0.0.1"])))
    return Client(targets, timeout=timeout, ssl_context=trusted)


@pytest.fixture(autouse=True)
async def nothing_left(no_task_left: None) -> None:
    """No attempt leaves a task behind."""


async def test_request_has_method_headers_and_body() -> None:
    async with receiving(204) as receiver:
        assert await client().post(receiver.url + "?x=a%20b", HEADERS, BODY) == 204
    (got,) = receiver.received
    assert got.line == "POST /hook?x=a%20b HTTP/1.1"
    assert got.body == BODY
    assert got.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert got.headers["content-type"] == "application/json"
    assert got.headers["webhook-id"] == "r1"
    assert got.headers["user-agent"].startswith("run-coordinator/")


async def test_connects_to_the_checked_address_with_the_name_in_the_host_header() -> None:
    names = Names(["127.0.0.1"], ["192.0.2.1"])
    async with receiving(tls=True) as receiver:
        url = f"https://hooks.example.com:{receiver.port}/hook"
        assert await client(names, tls=True).post(url, HEADERS, BODY) == 200
    (got,) = receiver.received
    assert got.server_name == "hooks.example.com"
    assert got.headers["host"] == f"hooks.example.com:{receiver.port}"
    assert names.queried == ["hooks.example.com"], (
        "one query: the client connects to the address that was checked"
    )


async def test_the_certificate_must_be_for_the_name() -> None:
    async with receiving(tls=True) as receiver:
        with pytest.raises(NotReached, match="certificate"):
            await client(tls=True).post(f"https://other.example.com:{receiver.port}/", HEADERS, BODY)
        with pytest.raises(NotReached, match="certificate"):
            await client().post(f"https://hooks.example.com:{receiver.port}/", HEADERS, BODY)
    assert receiver.received == []


async def test_name_rebound_to_loopback_is_not_connected_to() -> None:
    names = Names(["8.8.8.8"], ["127.0.0.1"])
    targets = Targets(ports=frozenset(range(1, 65536)), lookups=Lookups(names))
    async with receiving(tls=True) as receiver:
        url = f"https://hooks.example.com:{receiver.port}/hook"
        await targets.addresses(targets.parse(url))
        with pytest.raises(TargetRefused):
            await Client(targets, timeout=5).post(url, HEADERS, BODY)
    assert (receiver.connections, len(names.queried)) == (0, 2)


async def test_forbidden_literal_address_is_not_connected_to() -> None:
    async with receiving() as receiver:
        for host in ("127.0.0.1", "localhost", "2130706433", "[::ffff:127.0.0.1]"):
            with pytest.raises(TargetRefused):
                await client(private=False).post(f"https://{host}:{receiver.port}/", HEADERS, BODY)
    assert receiver.connections == 0


async def test_next_address_is_tried_if_one_does_not_answer() -> None:
    async with receiving() as receiver:
        url = f"http://hooks.example.com:{receiver.port}/"
        assert await client(Names(["127.0.0.2", "127.0.0.1"])).post(url, HEADERS, BODY) == 200


async def test_redirect_is_not_followed() -> None:
    async with receiving() as inner:
        for code in (301, 302, 303, 307, 308):
            async with receiving(status(code, headers=f"location: {inner.url}\r\n")) as receiver:
                assert await client().post(receiver.url, HEADERS, BODY) == code
    assert inner.connections == 0


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with receiving() as proxy, receiving() as receiver:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert await client().post(receiver.url, HEADERS, BODY) == 200
    assert proxy.connections == 0


async def test_response_body_is_read_after_the_status() -> None:
    """A receiver may take a connection that closes during its response for a failure of its own."""
    begun, may_go_on, complete = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def in_two_parts(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfi")
        await writer.drain()
        begun.set()
        await may_go_on.wait()
        writer.write(b"ne")
        await writer.drain()
        complete.set()

    async with receiving(in_two_parts) as receiver:
        posting = asyncio.create_task(client().post(receiver.url, HEADERS, BODY))
        await begun.wait()
        await asyncio.wait((posting,), timeout=0.05)
        assert not posting.done()
        may_go_on.set()
        assert await posting == 200
        assert complete.is_set()


# -- hostile receivers


async def test_huge_response_body_is_aborted() -> None:
    sent = 0

    async def without_end(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            sent += 65536

    async with receiving(without_end) as receiver:
        assert await client().post(receiver.url, HEADERS, BODY) == 200
        await receiver.gone.wait()
    assert sent < 32 << 20, "what the buffers of two sockets hold"


async def test_endless_response_body_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.webhooks.client._BODY_TIMEOUT", 0.05)

    async def half(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
        await writer.drain()
        await asyncio.Event().wait()

    async with receiving(half) as receiver:
        assert await client().post(receiver.url, HEADERS, BODY) == 200


@pytest.mark.parametrize("response", [b"", b"HTTP/1.1 200 OK\r\nx: "])
async def test_slow_receiver_times_out(response: bytes) -> None:
    async def slow(writer: asyncio.StreamWriter) -> None:
        writer.write(response)
        while True:
            await asyncio.sleep(0.01)
            if response:
                writer.write(b"x")

    async with receiving(slow) as receiver:
        began = time.monotonic()
        with pytest.raises(NotReached, match=r"no answer within 0\.2 s"):
            await client(timeout=0.2).post(receiver.url, HEADERS, BODY)
        assert time.monotonic() - began < 2


async def test_receiver_that_does_not_read_times_out() -> None:
    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    over = asyncio.Event()
    server = await asyncio.start_server(deaf, "127.0.0.1", 0, limit=1024)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(NotReached):
        await client(timeout=0.2).post(f"http://127.0.0.1:{port}/", HEADERS, b"x" * (64 << 20))
    over.set()
    server.close()


@pytest.mark.parametrize(
    "response",
    [
        b"",
        b"220 mail.example.com ESMTP\r\n",
        b"\x00" * 100,
        b"HTTP/1.1 999999 x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000,
    ],
)
async def test_invalid_response_raises_not_reached(response: bytes) -> None:
    async def respond(writer: asyncio.StreamWriter) -> None:
        writer.write(response)
        await writer.drain()

    async with receiving(respond) as receiver:
        with pytest.raises(NotReached):
            await client().post(receiver.url, HEADERS, BODY)


async def test_closed_port_raises_not_reached() -> None:
    async with receiving() as receiver:
        url = receiver.url
    with pytest.raises(NotReached):
        await client().post(url, HEADERS, BODY)


async def test_name_server_without_answer_is_bounded_by_the_attempts_timeout() -> None:
    with slow_names() as names, pytest.raises(NotReached, match="no answer within"):
        await client(names, timeout=0.05).post("http://slow.example.com/", HEADERS, BODY)


async def test_waiting_for_a_look_up_thread_does_not_count_against_the_attempt() -> None:
    with slow_names() as names:
        lookups = Lookups(names, threads=1, per_user=1)
        targets = Targets(allow_private=True, lookups=lookups)
        other = asyncio.create_task(lookups.addresses("slow.example.com", 443, user_id="alice"))
        await wait_until(lambda: bool(names.queried), description="the thread is taken")
        async with receiving() as receiver:
            url = f"http://hooks.example.com:{receiver.port}/"
            attempt = asyncio.create_task(
                Client(targets, timeout=1.0).post(url, HEADERS, BODY, user_id="bob")
            )
            await asyncio.sleep(1.2)  # longer than the attempt may take: this time is what is tested
            assert not attempt.done()
            names.released.set()
            assert await attempt == 200
        await other
