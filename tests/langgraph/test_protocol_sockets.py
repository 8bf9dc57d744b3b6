"""The Agent Streaming Protocol over WebSockets, on three workers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from coordinator.servers.valkey import ValkeyServer
from tests.langgraph.client_team import KINDS, team_of
from tests.langgraph.protocol_events import ALL, Event, command, is_end, phase, seqs, until
from tests.langgraph.test_protocol import INPUT, Team, function, made, started
from tests.support.gateways import Served
from tests.support.postgres import Database
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=KINDS)
async def team(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    shared_valkey: ValkeyServer,
    shared_postgres: Database,
) -> AsyncGenerator[Team]:
    folder = tmp_path_factory.mktemp("runs")
    async with team_of(
        request.param, folder, shared_valkey, shared_postgres, made, function=function
    ) as team:
        yield team


class Socket:
    """A client of one thread. `events` are those that have come, in order."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._answers: dict[int, dict[str, Any]] = {}
        self.events: list[Event] = []
        self._id = 0

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        self._id += 1
        await self._connection.send(json.dumps({"id": self._id, "method": method, "params": params}))
        while self._id not in self._answers:
            await self._read()
        return self._answers.pop(self._id)

    async def until(self, last: Callable[[Event], bool], since: int = 0) -> list[Event]:
        while not any(map(last, self.events[since:])):
            await self._read()
        return self.events[since:]

    async def _read(self) -> None:
        frame = json.loads(await asyncio.wait_for(self._connection.recv(), 20))
        if frame["type"] == "event":
            self.events.append(frame)
        else:
            self._answers[frame["id"]] = frame


@asynccontextmanager
async def opened(served: Served, thread: str) -> AsyncGenerator[Socket]:
    url = served.url.replace("http:", "ws:")
    async with connect(f"{url}/threads/{thread}/stream/events") as connection:
        yield Socket(connection)


async def test_socket_of_a_new_thread_starts_and_follows_its_runs(team: Team) -> None:
    a, b, _ = team
    thread = str(uuid4())
    async with opened(a, thread) as socket, opened(b, thread) as other:
        for one in (socket, other):
            assert (await one.send("subscription.subscribe", channels=ALL))["type"] == "success"
        began = await socket.send("run.start", assistant_id="asking", input=INPUT)
        assert began["type"] == "success"
        paused = await socket.until(is_end)
        (requested,) = [event for event in paused if event["method"] == "input.requested"]
        answer = {"interrupt_id": requested["params"]["data"]["interrupt_id"], "response": "yes"}
        assert (await other.send("input.respond", **answer))["type"] == "success"
        whole = await socket.until(lambda event: phase(event) == "completed")
        same = await other.until(lambda event: phase(event) == "completed")
        assert seqs(same) == seqs(whole)
        assert seqs(whole) == sorted({*seqs(whole)})
        tree = await other.send("agent.getTree", run_id=began["result"]["run_id"])
        assert tree["result"]["tree"]["status"] == "interrupted"
    assert seqs(whole) == seqs(await until(b.raw, thread, lambda event: phase(event) == "completed"))


async def test_further_subscription_gets_what_came_before_once(team: Team) -> None:
    a, b, _ = team
    thread = str(uuid4())
    await started(a, thread, "nested", INPUT)
    whole = await until(a.raw, thread, is_end)
    async with opened(b, thread) as socket:
        await socket.send("subscription.subscribe", channels=["lifecycle"], namespaces=[[]], depth=0)
        await socket.until(is_end)
        assert [phase(event) for event in socket.events] == ["running", "interrupted"]
        added = await socket.send("subscription.subscribe", channels=["lifecycle", "values"])
        count = sum(event["method"] in ("lifecycle", "values") for event in whole)
        await socket.until(lambda event: len(socket.events) == count)
        assert len({event["event_id"] for event in socket.events}) == count
        await socket.send("subscription.unsubscribe", **added["result"])
        again = await socket.send("subscription.unsubscribe", **added["result"])
        assert again["error"] == "no_such_subscription"
        seen = len(socket.events)
        await started(b, thread, "nested", "yes")
        rest = await socket.until(is_end, seen)
        assert {event["method"] for event in rest} == {"lifecycle"}


async def test_socket_goes_on_at_another_worker(team: Team) -> None:
    a, b, c = team
    thread = str(uuid4())
    await started(a, thread, "chat", {"messages": [{"type": "human", "content": "hi"}]})
    whole = await until(a.raw, thread, is_end)
    for served, index in ((b, 3), (c, 7)):
        async with opened(served, thread) as socket:
            since = whole[index]["seq"]
            method = "subscription.reconnect" if served is c else "subscription.subscribe"
            assert (await socket.send(method, channels=ALL, since=since))["type"] == "success"
            assert seqs(await socket.until(is_end)) == seqs(whole)[index + 1 :]


async def test_real_client_over_websockets(team: Team) -> None:
    a, b, _ = team
    thread = (await a.sdk.threads.create())["thread_id"]
    async with b.sdk.threads.stream(thread, assistant_id="chain", transport="websocket") as stream:
        await stream.run.start(input=INPUT)
        assert await stream.output == {"log": ["a", "b"]}


async def test_invalid_commands_are_answered_and_leave_the_socket_open(team: Team) -> None:
    a, _, _ = team
    async with connect(f"{a.url.replace('http:', 'ws:')}/threads/{uuid4()}/stream/events") as raw:
        for text in ("{", "[]", '{"id": 1}', '{"id": 2, "method": 3}', '{"id": 3, "method": "other"}'):
            await raw.send(text)
            answer = json.loads(await asyncio.wait_for(raw.recv(), 20))
            assert answer["type"] == "error"
            assert answer["error"] in ("invalid_argument", "unknown_command")
        for sent, code in ((b"bytes", 1003), ("x" * (5 << 20), 1009)):
            async with connect(f"{a.url.replace('http:', 'ws:')}/threads/{uuid4()}/stream/events") as other:
                await other.send(sent)
                with pytest.raises(ConnectionClosed) as closed:
                    await asyncio.wait_for(other.recv(), 20)
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == code


async def test_socket_of_a_deleted_thread_is_closed(team: Team) -> None:
    a, b, _ = team
    thread = str(uuid4())
    await started(a, thread, "function", {})
    async with connect(f"{b.url.replace('http:', 'ws:')}/threads/{thread}/stream/events") as raw:
        socket = Socket(raw)
        await socket.send("subscription.subscribe", channels=ALL)
        await socket.until(is_end)
        await a.sdk.threads.delete(thread)
        with pytest.raises(ConnectionClosed) as closed:
            await asyncio.wait_for(raw.recv(), 20)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4404


async def test_sockets_count_as_streams_and_free_their_place(team: Team) -> None:
    a, _, _ = team
    watchers = a.gateway.state.services.watchers
    await wait_until(lambda: not watchers.open, description="the sockets of other tests are closed")
    async with opened(a, str(uuid4())) as socket:
        await socket.send("subscription.subscribe", channels=ALL)
        assert watchers.open == 1
    await wait_until(lambda: not watchers.open, description="the socket has freed its place")


async def test_commands_over_http_reach_the_socket(team: Team) -> None:
    a, b, c = team
    thread = str(uuid4())
    async with opened(c, thread) as socket:
        await socket.send("subscription.subscribe", channels=["custom", "lifecycle"])
        for number in range(3):
            served = (a, b, c)[number]
            given = {"emits": [["custom", number]]}
            await command(served.raw, thread, "run.start", assistant_id="function", input=given)
        await socket.until(lambda event: sum(map(is_end, socket.events)) == 3)
    custom = [event["params"]["data"]["payload"] for event in socket.events if event["method"] == "custom"]
    assert custom == [0, 1, 2]
