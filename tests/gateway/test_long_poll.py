"""The response with the result of a run: as a whole if the run ends in a moment, else open until it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from starlette.types import Message

from coordinator import RunContext, RunManager, Settings
from coordinator.errors import Draining, StoreError
from coordinator.gateway import long_poll
from coordinator.gateway.long_lived_responses import Watchers
from coordinator.gateway.long_poll import LongPollResponse
from tests.support.asgi import serving
from tests.support.gateways import Served, demo, new_thread

pytestmark = pytest.mark.usefixtures("no_task_left")

LATER = 60.0
"""Longer than a test."""


@dataclass
class Client:
    """What a client has received, and its disconnects that were reported."""

    messages: list[Message] = field(default_factory=list[Message])
    left: asyncio.Event = field(default_factory=asyncio.Event)
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    reported: int = 0
    gone: bool = False
    """Whether the connection is lost, so that nothing can be sent."""
    watchers: Watchers = field(default_factory=lambda: Watchers(2, 2))

    async def receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self.gone:
            raise ConnectionResetError
        self.messages.append(message)
        self.begun.set()

    async def report(self) -> None:
        self.reported += 1

    async def get(self, result: Callable[[], Awaitable[Any]]) -> None:
        async def called() -> Any:
            return await result()

        with self.watchers.reserve(None) as slot:
            response = LongPollResponse(
                called, slot, heartbeat=LATER, headers={"Location": "/there"}, on_disconnect=self.report
            )
        assert self.watchers.open == 1
        try:
            await response({"type": "http"}, self.receive, self.send)
        finally:
            assert self.watchers.open == 0

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.messages[1:])


async def test_result_in_a_moment_is_one_message_with_its_length() -> None:
    client, tasks = Client(), asyncio.all_tasks()

    async def result() -> Any:
        assert asyncio.all_tasks() == tasks, "no task is created for the response"
        return {"a": 1}

    await client.get(result)
    start, body = client.messages
    headers = [(b"location", b"/there"), (b"content-type", b"application/json"), (b"content-length", b"7")]
    assert (start["status"], start["headers"]) == (200, headers)
    assert body == {"type": "http.response.body", "body": b'{"a":1}', "more_body": False}
    assert client.reported == 0


async def test_later_result_follows_the_headers() -> None:
    client, called, released = Client(), list[str](), asyncio.Event()

    async def result() -> Any:
        called.append("once")
        await released.wait()
        return {"a": 1}

    getting = asyncio.ensure_future(client.get(result))
    await client.begun.wait()
    assert len(called) == 1, "the headers are sent before the result is waited for again"
    assert not [name for name, _ in client.messages[0]["headers"] if name == b"content-length"]
    released.set()
    await getting
    assert client.body == b'{"a":1}'


async def test_disconnect_within_the_moment_is_reported() -> None:
    client = Client()
    client.left.set()
    await client.get(asyncio.Event().wait)
    assert client.reported == 1
    assert client.body == b""


async def test_lost_connection_of_a_whole_response_is_reported() -> None:
    client = Client(gone=True)

    async def result() -> Any:
        return {}

    await client.get(result)
    assert client.reported == 1


async def test_error_within_the_moment_is_raised_before_the_headers() -> None:
    client = Client()

    async def result() -> Any:
        raise StoreError("closed")

    with pytest.raises(StoreError):
        await client.get(result)
    assert client.messages == []


async def test_abort_within_the_moment_refuses_the_request() -> None:
    client = Client()
    getting = asyncio.ensure_future(client.get(asyncio.Event().wait))
    await asyncio.sleep(0)
    client.watchers.abort_all()
    with pytest.raises(Draining):
        await getting
    assert client.reported == 0


async def test_run_is_the_same_resource_in_both_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    async def agent(ctx: RunContext) -> dict[str, int]:
        del ctx
        return {"a": 1}

    manager = RunManager(settings=Settings(grace=0), assistants={"quick": agent})
    answers = list[Any]()
    async with serving(manager=manager) as (_, client):
        for moment in (LATER, 0):
            monkeypatch.setattr(long_poll, "MOMENT", moment)
            answers.append(await client.post("/runs/wait", json={"assistant_id": "quick"}))
    whole, followed = answers
    assert (whole.status_code, whole.json()) == (followed.status_code, followed.json()) == (200, {"a": 1})
    assert whole.headers["content-length"] == "7"
    for answer in answers:
        path = answer.headers["content-location"]
        assert answer.headers["location"] == f"{path}/join"
        assert path.startswith("/threads/")


async def test_runs_that_end_in_a_moment_are_sent_as_a_whole(one: Served) -> None:
    thread = await new_thread(one.sdk)
    answer = await one.raw.post(
        f"/threads/{thread}/runs/wait", json={"assistant_id": "agent", "input": demo()}
    )
    run = answer.headers["content-location"]
    joined = await one.raw.get(f"{run}/join")
    assert joined.headers["content-length"] == str(len(joined.content))
    assert joined.json() == answer.json()
