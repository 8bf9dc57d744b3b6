"""WebSockets of threads: who may open one, what each may do with it, and what a client cannot use up."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import uvicorn
from langgraph_sdk import Auth
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode

from coordinator import RunManager, Settings
from coordinator.assistants.demo import agent
from coordinator.gateway import Gateway, GatewaySettings, create_gateway, key_file
from coordinator.gateway.caller import Role
from coordinator.gateway.protocol import socket
from coordinator.gateway.protocol.commands import Commands
from coordinator.gateway.server import sockets
from coordinator.gateway.server.connections import connections_of
from coordinator.gateway.server.logs import TextLines, Who
from coordinator.gateway.server.phases import Limits
from coordinator.gateway.server.serving import MAX_MESSAGE
from coordinator.gateway.services import Services
from coordinator.gateway.wire.protocol import Command
from coordinator.langgraph.auth import AuthHandlers
from coordinator.langgraph.extension import NO_EXTENSION, Extension
from tests.support.asgi import key_for
from tests.support.in_process import listening_server
from tests.support.raw import bounded
from tests.support.waiting import wait_until

SUBSCRIBE: dict[str, Any] = {"channels": ["custom", "values", "lifecycle"]}
START: dict[str, Any] = {"assistant_id": "agent", "input": {}}


class Server:
    """A gateway behind the server that `serve` has."""

    def __init__(self, gateway: Gateway, manager: RunManager, server: uvicorn.Server, port: int) -> None:
        self.gateway, self.manager, self.port = gateway, manager, port
        self.connections = connections_of(server.server_state, None)

    def url(self, thread: str) -> str:
        return f"ws://127.0.0.1:{self.port}/threads/{thread}/stream/events"


@asynccontextmanager
async def serving(
    extension: Extension = NO_EXTENSION, kind: type[asyncio.Protocol] = sockets.BoundedSocket, **given: Any
) -> AsyncGenerator[Server]:
    manager = RunManager(settings=Settings(tick=0.05, grace=0))
    gateway = create_gateway(
        manager, {"agent": agent}, settings=GatewaySettings(**given), extension=extension
    )
    config = uvicorn.Config(
        gateway,
        lifespan="off",
        http=bounded(Limits()),
        ws=kind,
        ws_max_size=MAX_MESSAGE,
        ws_per_message_deflate=False,
        log_config=None,
        timeout_graceful_shutdown=2,
    )
    async with gateway.running(), listening_server(config) as (server, port):
        try:
            yield Server(gateway, manager, server, port)
        finally:
            gateway.abort_streams()


async def call(connection: ClientConnection, method: str, **params: Any) -> dict[str, Any]:
    await connection.send(json.dumps({"id": 1, "method": method, "params": params}))
    while True:
        frame = json.loads(await asyncio.wait_for(connection.recv(), 20))
        if frame.get("id") == 1:
            return frame


async def status_of_refusal(opening: Awaitable[ClientConnection]) -> int:
    with pytest.raises(InvalidStatus) as refused:
        await opening
    return refused.value.response.status_code


async def test_each_caller_reaches_its_own_threads_alone(tmp_path: Path) -> None:
    """The matrix of a socket: keys, roles, and threads of others, which look like threads that are new."""
    path = tmp_path / "keys"
    keys = {
        "alice": key_for(path, Role.user, "alice"),
        "reader": key_for(path, Role.reader, "alice"),
        "bob": key_for(path, Role.user, "bob"),
        "admin": key_for(path, Role.admin),
    }
    async with serving(api_keys=path) as server:
        thread = (await server.manager.threads.create(user_id="alice")).thread_id
        for headers in ({}, {"x-api-key": "rck_000000000000_no"}):
            assert await status_of_refusal(connect(server.url(thread), additional_headers=headers)) == 401
        expected = {
            "alice": ("success", "success"),
            "reader": ("permission_denied", "success"),
            "bob": ("no_such_run", "no_such_run"),
            "admin": ("success", "success"),
        }
        for name, (start, tree) in expected.items():
            async with connect(server.url(thread), additional_headers=keys[name]) as connection:
                assert (await call(connection, "subscription.subscribe", **SUBSCRIBE))["type"] == "success"
                answer = await call(connection, "run.start", **START)
                assert answer.get("error", answer["type"]) == start, name
                if tree == "success":
                    await _until_run(server, thread)
                answer = await call(connection, "agent.getTree")
                assert answer.get("error", answer["type"]) == tree, name
        async with connect(server.url(thread), additional_headers=keys["bob"]) as connection:
            await call(connection, "subscription.subscribe", **SUBSCRIBE)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(connection.recv(), 1.2)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"assistant_id": 5}, "assistant_id: Input should be a valid string"),
        ({"assistant_id": "agent", "metadata": {"a": "x" * 100}}, "metadata: "),
    ],
    ids=["type", "size"],
)
async def test_invalid_argument_of_a_command_is_named(params: dict[str, Any], message: str) -> None:
    async with serving(max_metadata_bytes=50) as server, connect(server.url(str(uuid4()))) as connection:
        answer = await call(connection, "run.start", **params)
    assert answer["error"] == "invalid_argument"
    assert answer["message"].startswith(message)


async def _until_run(server: Server, thread: str) -> None:
    async def begun() -> bool:
        return bool(await server.manager.runs.started(thread))

    await wait_until(begun, description="a run has begun")


async def test_refused_handshake_is_no_error_of_the_server(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Else clients without a key could fill the log."""
    key_for(path := tmp_path / "keys", Role.user, "alice")
    async with serving(api_keys=path) as server:
        assert await status_of_refusal(connect(server.url(str(uuid4())))) == 401
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_text_that_is_not_utf_8_is_no_error_of_the_server(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as server:
        connection = await connect(server.url(str(uuid4())))
        transport: Any = connection.transport
        transport.write(_frame(Opcode.TEXT, b"\xff\xfe"))
        with pytest.raises(ConnectionClosed) as closed:
            await asyncio.wait_for(connection.recv(), 20)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1007
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_socket_that_is_closed_during_a_command_is_no_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving() as server:

        async def handle(self: Commands, command: Command) -> dict[str, Any]:
            server.gateway.abort_streams()
            await wait_until(lambda: connection.close_code is not None, description="it is closed")
            return {"type": "success", "id": command.id, "result": {}}

        monkeypatch.setattr(Commands, "handle", handle)
        connection = await connect(server.url(str(uuid4())))
        with pytest.raises(ConnectionClosed):
            await call(connection, "agent.getTree")
        await wait_until(lambda: not len(server.connections), description="the server has ended it")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_revoked_key_starts_nothing_over_an_open_socket(tmp_path: Path) -> None:
    """The socket is closed at the next command, with the status that the key has over HTTP."""
    path = tmp_path / "keys"
    key = key_for(path, Role.user, "alice")
    async with serving(api_keys=path) as server:
        thread = (await server.manager.threads.create(user_id="alice")).thread_id
        async with connect(server.url(thread), additional_headers=key) as connection:
            assert (await call(connection, "run.start", **START))["type"] == "success"
            key_file.revoke(path, key_file.read(path).popitem()[0])

            async def closed() -> bool:
                try:
                    await call(connection, "agent.getTree")
                except ConnectionClosed as error:
                    return error.rcvd is not None and error.rcvd.code == 4401
                return False

            await wait_until(closed, description="the key is refused")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
async def test_pages_of_other_sites_open_no_socket(headers: dict[str, str], status: int) -> None:
    async with serving() as server:
        request = connect(server.url(str(uuid4())), additional_headers=headers)
        if "Host" in headers:  # the client writes its own
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(
                f"GET /threads/{uuid4()}/stream/events HTTP/1.1\r\nHost: evil.example\r\n"
                "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
            )
            assert f" {status} ".encode() in await asyncio.wait_for(reader.readline(), 20)
            writer.close()
        else:
            assert await status_of_refusal(request) == status


async def test_limits_of_streams_and_of_requests_are_those_of_sockets(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    key = key_for(path, Role.user, "alice")
    async with serving(api_keys=path, max_streams_per_user=1) as server:
        async with connect(server.url(str(uuid4())), additional_headers=key):
            assert await status_of_refusal(connect(server.url(str(uuid4())), additional_headers=key)) == 429
        await wait_until(
            lambda: not server.gateway.state.services.watchers.open, description="its place is free"
        )
        async with connect(server.url(str(uuid4())), additional_headers=key):
            """There is a place again."""
    async with (
        serving(api_keys=path, rate_limit=2.0) as server,
        connect(server.url(str(uuid4())), additional_headers=key) as connection,
    ):
        answers = [await call(connection, "agent.getTree") for _ in range(4)]
        assert answers[-1]["message"] == "too many requests"
    async with serving() as server:
        assert await status_of_refusal(connect(server.url("no-uuid"))) == 422


async def test_functions_of_a_configuration_decide_about_each_command() -> None:
    auth, calls = Auth(), list[tuple[str, str]]()

    @auth.authenticate
    async def authenticate(authorization: str | None) -> Any:
        return {"identity": authorization or "stranger", "permissions": []}

    @auth.on
    async def deny(ctx: Auth.types.AuthContext, value: dict[str, Any]) -> bool:
        calls.append((ctx.resource, ctx.action))
        return (ctx.resource, ctx.action) == ("threads", "read")

    extension = Extension(handlers=AuthHandlers(auth, "auth.path", 5))
    async with serving(extension) as server:
        thread = (await server.manager.threads.create(user_id="ann")).thread_id
        async with connect(server.url(thread), additional_headers={"authorization": "ann"}) as connection:
            assert calls.pop() == ("threads", "read")
            refused = await call(connection, "run.start", **START)
            assert (refused["error"], calls.pop()) == ("permission_denied", ("threads", "create_run"))
            assert (await call(connection, "agent.getTree"))["error"] == "no_such_run"
            assert calls.pop() == ("threads", "read")


async def test_drained_worker_closes_sockets_so_that_clients_come_back() -> None:
    async with serving() as server, connect(server.url(str(uuid4()))) as connection:
        await call(connection, "subscription.subscribe", **SUBSCRIBE)
        server.gateway.abort_streams()
        with pytest.raises(ConnectionClosed) as closed:
            await asyncio.wait_for(connection.recv(), 20)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
        assert await status_of_refusal(connect(server.url(str(uuid4())))) == 503


# -- its events


async def test_further_subscriptions_to_a_finished_thread_wait_for_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each replay ends at the place that the socket has reached, also if it leaves out the last event."""
    monkeypatch.setattr(socket, "REPLAYED_WITHIN", 3600.0)
    thread = str(uuid4())
    async with serving() as server:
        run = await server.manager.create_or_reject(thread, "agent", kwargs={"input": {}})
        server.manager.launch(run, agent)
        await server.manager.wait(run.run_id, timeout=20)
        async with connect(server.url(thread)) as connection, asyncio.timeout(20):
            await call(connection, "subscription.subscribe", channels=["lifecycle"])
            while True:
                event = json.loads(await connection.recv())
                if event["method"] == "lifecycle" and event["params"]["data"]["event"] == "completed":
                    break
            seen = list[dict[str, Any]]()
            for channels in (["values"], ["values"], ["lifecycle"], ["custom"], ["lifecycle", "values"]):
                await connection.send(
                    json.dumps(
                        {"id": 7, "method": "subscription.subscribe", "params": {"channels": channels}}
                    )
                )
            answers = 0
            while answers < 5:
                frame = json.loads(await connection.recv())
                answers += frame["type"] == "success"
                seen += [] if frame["type"] == "success" else [frame]
    assert {frame["method"] for frame in seen} == {"values"}
    assert len({frame["seq"] for frame in seen}) == len(seen)


# -- what a client cannot use up


@pytest.mark.parametrize("flood", ["fragments", "pings", "a large message"])
async def test_flood_ends_the_connection(flood: str) -> None:
    async with serving() as server:
        connection = await connect(server.url(str(uuid4())), ping_interval=None)
        await call(connection, "subscription.subscribe", **SUBSCRIBE)
        transport: Any = connection.transport
        transport.pause_reading()
        sent = {
            "fragments": [_frame(Opcode.TEXT, b"", fin=False)] + [_frame(Opcode.CONT, b"", fin=False)] * 5000,
            "pings": [_frame(Opcode.PING, b"x" * 125) * 1000] * 200,
            "a large message": [_frame(Opcode.TEXT, b"x" * 1000, fin=False)]
            + [_frame(Opcode.CONT, b"x" * 65_000, fin=False)] * 80,
        }[flood]
        for data in sent:
            if transport.is_closing():
                break
            transport.write(data)
            await asyncio.sleep(0)
        await wait_until(lambda: not len(server.connections), description="the server has ended it")
        transport.abort()


def _frame(opcode: Opcode, data: bytes, *, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=True)


async def test_slow_reader_holds_a_bounded_buffer_and_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its events stay in the log: the connection alone has some of them."""
    buffered: list[Callable[[], int]] = []

    class Socket(sockets.BoundedSocket):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.ping_interval = self.ping_timeout = 0.5
            buffered.append(self.transport.get_write_buffer_size)

    async with serving(kind=Socket) as server:
        thread = str(uuid4())
        connection = await connect(server.url(thread), ping_interval=None)
        transport: Any = connection.transport
        await call(connection, "subscription.subscribe", **SUBSCRIBE)
        transport.pause_reading()
        record = await server.manager.create_or_reject(thread, "agent", kwargs={"input": None})

        async def talks(ctx: Any) -> None:
            for _ in range(300):
                await ctx.emit("custom", "x" * 100_000)

        server.manager.launch(record, talks)
        await server.manager.wait(record.run_id, timeout=20)
        assert buffered[0]() < 1 << 20
        await wait_until(lambda: not len(server.connections), description="it was ended by its pings")
        transport.abort()


async def test_query_of_a_socket_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with serving() as server, connect(f"{server.url(str(uuid4()))}?token=secret") as connection:
        await call(connection, "subscription.subscribe", **SUBSCRIBE)
    assert "secret" not in caplog.text


# -- what an operator sees of a socket


async def test_socket_is_logged_and_counted_when_it_is_closed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    thread, name = str(uuid4()), "alice x=1"
    key = key_for(path := tmp_path / "keys", Role.user, name)
    async with serving(api_keys=path) as server:
        async with connect(server.url(thread), additional_headers=key) as connection:
            await call(connection, "subscription.subscribe", **SUBSCRIBE)
            await call(connection, "run.start", **START)
            assert not access_lines(caplog), "it is open"
            assert "coordinator_worker_open_sockets 1.0" in await metrics_of(server)
            await connection.close(4999)
        await wait_until(lambda: access_lines(caplog), description="it is closed")
        assert "coordinator_worker_open_sockets 0.0" in (metrics := await metrics_of(server))
    [record] = access_lines(caplog)
    line: Any = vars(record)
    assert (line["path"], line["status"], line["code"]) == (f"/threads/{thread}/stream/events", 101, 4999)
    assert (line["user"], line["client"], line["received"]) == (name, "127.0.0.1", 2)
    assert line["sent"] >= 2, "two answers, and events"
    assert line["ms"] > 0
    assert ' user="alice x=1" ' in TextLines(Who("w")).format(record)
    route = 'route="/threads/{thread_id}/stream/events"'
    assert f'coordinator_sockets_closed_total{{code="other",{route}}} 1.0' in metrics
    assert f'coordinator_http_requests_total{{method="GET",{route},status="101"}} 1.0' in metrics


async def test_close_by_the_worker_is_counted_with_its_code(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with serving() as server:
        async with connect(server.url(str(uuid4()))) as connection:
            await call(connection, "subscription.subscribe", **SUBSCRIBE)
            server.gateway.abort_streams()
            with pytest.raises(ConnectionClosed):
                await asyncio.wait_for(connection.recv(), 20)
        await wait_until(lambda: access_lines(caplog), description="it is closed")
        metrics = await metrics_of(server)
    assert [vars(record)["code"] for record in access_lines(caplog)] == [1012]
    assert (
        'coordinator_sockets_closed_total{code="1012",route="/threads/{thread_id}/stream/events"}' in metrics
    )


async def test_refused_handshake_is_logged_and_counted_as_a_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    key_for(path := tmp_path / "keys", Role.user, "alice")
    async with serving(api_keys=path) as server:
        assert await status_of_refusal(connect(server.url(str(uuid4())))) == 401
        await wait_until(lambda: access_lines(caplog), description="it has ended")
        metrics = await metrics_of(server)
    [line] = [vars(record) for record in access_lines(caplog)]
    assert (line["status"], line["code"], line["user"]) == (401, None, None)
    assert 'coordinator_http_requests_total{method="GET",route="unmatched",status="401"} 1.0' in metrics
    assert "coordinator_sockets_closed_total{" not in metrics
    assert "coordinator_worker_open_sockets 0.0" in metrics


async def test_sockets_are_not_logged_without_an_access_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with serving(access_log=False) as server:
        async with connect(server.url(str(uuid4()))) as connection:
            await call(connection, "subscription.subscribe", **SUBSCRIBE)

        async def counted() -> bool:
            return 'coordinator_sockets_closed_total{code="1000"' in await metrics_of(server)

        await wait_until(counted, description="it is closed")
    assert not access_lines(caplog)


def access_lines(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "coordinator.gateway.access"]


async def metrics_of(server: Server) -> str:
    services: Services = server.gateway.state.services
    return (await services.metrics.exposition()).decode()
