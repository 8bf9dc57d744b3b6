"""Limits of size, rate and duration, and their responses."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from coordinator import RunManager
from coordinator.gateway import GatewaySettings
from coordinator.gateway.caller import Caller, Role
from coordinator.gateway.errors import TooManyOpen
from coordinator.gateway.long_lived_responses import Watchers
from coordinator.gateway.middleware.bodies import Bodies
from coordinator.gateway.middleware.rate import MAX_CALLERS, Buckets
from coordinator.settings import Settings
from tests.support.asgi import key_for, serving
from tests.support.gateways import one_gateway
from tests.support.inside import callers_in
from tests.support.raw import served_by
from tests.support.waiting import wait_until

MAX = 4096


def body_of(size: int) -> bytes:
    return b'{"metadata": {"a": "' + b"x" * (size - 23) + b'"}}'


async def in_pieces(body: bytes, size: int = 100) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


@pytest.mark.parametrize("chunked", [False, True], ids=["with a length", "in chunks"])
async def test_a_body_that_is_too_large_is_refused(chunked: bool) -> None:
    async with serving(max_body_bytes=MAX) as (_, client):
        for size, status in ((MAX, 200), (MAX + 1, 413), (MAX * 50, 413)):
            body = body_of(size)
            answer = await client.post(
                "/threads",
                content=in_pieces(body) if chunked else body,
                headers={"content-type": "application/json"},
            )
            assert answer.status_code == status, size
            if status == 413:
                assert answer.json() == {"detail": f"the body is larger than {MAX} bytes"}


@pytest.mark.parametrize("chunked", [False, True], ids=["with a length", "in chunks"])
async def test_client_of_a_much_larger_body_gets_the_413(chunked: bool) -> None:
    """Clients read the response when they have sent the body."""
    body = body_of(20_000_000)
    async with (
        one_gateway(max_body_bytes=MAX) as served,
        served_by(served.gateway) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=15) as client,
    ):
        for _ in range(3):
            content = in_pieces(body, 100_000) if chunked else body
            answer = await client.post("/threads", content=content)
            assert answer.status_code == 413
            assert answer.json() == {"detail": f"the body is larger than {MAX} bytes"}


async def test_wrong_content_length_does_not_bypass_the_limit() -> None:
    async with serving(max_body_bytes=MAX) as (_, client):
        headers = {"content-type": "application/json", "content-length": "10"}
        answer = await client.post("/threads", content=in_pieces(body_of(MAX + 1)), headers=headers)
        assert answer.status_code == 413
        huge = await client.post("/threads", headers={"content-length": "9" * 5000}, content=in_pieces(b"{}"))
        assert huge.status_code == 413


class Uploads:
    """Requests whose bodies are begun, and completed on a signal."""

    def __init__(self) -> None:
        self._bodies = Bodies(self._app, max_bytes=MAX)
        self._go_on = asyncio.Event()
        self._open: list[asyncio.Task[None]] = []

    async def begin(self, caller: Caller | None, address: str, size: int) -> None:
        self._open.append(asyncio.create_task(self.send(caller, address, size)))
        await asyncio.sleep(0)

    async def send(self, caller: Caller | None, address: str, size: int) -> None:
        pieces: list[Message] = [{"type": "http.request", "body": b"x" * size, "more_body": True}]

        async def receive() -> Message:
            if pieces:
                return pieces.pop()
            await self._go_on.wait()
            return {"type": "http.request", "body": b"", "more_body": False}

        scope: Scope = {"type": "http", "headers": [], "client": (address, 1), "state": {"caller": caller}}
        await self._bodies(scope, receive, self._nothing)

    async def refused(self, caller: Caller | None, address: str, size: int) -> str:
        with pytest.raises(HTTPException) as raised:
            async with asyncio.timeout(5):
                await self.send(caller, address, size)
        assert raised.value.status_code == 503
        return raised.value.detail

    async def end(self) -> None:
        self._go_on.set()
        await asyncio.gather(*self._open)

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            """Until the body is complete."""

    async def _nothing(self, message: Message) -> None:
        raise AssertionError(message)


async def test_incomplete_bodies_of_all_requests_are_bounded_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("coordinator.gateway.middleware.bodies._MIN_ROOM", 2 * MAX)
    monkeypatch.setattr("coordinator.gateway.middleware.bodies.MAX_INCOMPLETE", 2)
    uploads = Uploads()
    for address in ("a", "b"):
        await uploads.begin(None, address, MAX)
    assert "the incomplete request bodies at this worker have reached the limit" in await uploads.refused(
        None, "c", 1
    )
    await uploads.end()
    await uploads.send(None, "c", MAX)


@pytest.mark.parametrize("sender_kind", ["user", "key", "address"])
async def test_incomplete_bodies_of_one_caller_leave_room_for_others(
    sender_kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.gateway.middleware.bodies._MIN_ROOM", 8 * MAX)
    monkeypatch.setattr("coordinator.gateway.middleware.bodies.MAX_INCOMPLETE", 8)

    def sender(name: str, nth: int) -> tuple[Caller | None, str]:
        """Senders that share a user, a key, or an address."""
        if sender_kind == "user":
            return Caller(name, Role.user, f"key {nth}"), f"10.0.0.{nth}"
        return (Caller(None, Role.admin, name), f"10.0.0.{nth}") if sender_kind == "key" else (None, name)

    uploads = Uploads()
    for nth in range(2):
        await uploads.begin(*sender("greedy", nth), MAX)
    assert "your incomplete request bodies" in await uploads.refused(*sender("greedy", 2), 1)
    for name in ("second", "third", "fourth"):
        for nth in range(2):
            await uploads.begin(*sender(name, nth), MAX)
    await uploads.end()
    await uploads.send(*sender("greedy", 3), MAX)


async def test_stalled_body_times_out_and_long_responses_do_not() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await receive()

    never = asyncio.Event()
    messages: list[Message] = [{"type": "http.request", "body": b"{", "more_body": True}]

    async def receive() -> Message:
        if not messages:
            await never.wait()
        return messages.pop()

    async def send(message: Message) -> None:
        raise AssertionError(message)

    scope: dict[str, Any] = {"type": "http", "headers": []}
    with pytest.raises(HTTPException) as raised:
        await Bodies(app, max_bytes=MAX, within=0.01)(scope, receive, send)
    assert raised.value.status_code == 408
    messages[:] = [{"type": "http.request", "body": b"", "more_body": False}]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):  # much longer than the timeout of a body, which is complete
            await Bodies(app, max_bytes=MAX, within=0.01)(scope, receive, send)


class Body:
    """A body in one message, which is received in `steps` steps and then complete, or never."""

    def __init__(self, steps: int, *, ever: bool = True) -> None:
        self._steps, self._ever = steps, ever
        self.waiting, self.cancelled = asyncio.Event(), False

    async def receive(self) -> Message:
        for _ in range(self._steps):
            await asyncio.sleep(0)
        if not self._ever:
            self.waiting.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled = True
                raise
        return {"type": "http.request", "body": b"{}", "more_body": False}


async def received_by(within: float, body: Body) -> list[Message]:
    received: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        received.append(await receive())

    async def send(message: Message) -> None:
        raise AssertionError(message)

    bodies = Bodies(app, max_bytes=MAX, within=within)
    await bodies({"type": "http", "headers": []}, body.receive, send)
    return received


@pytest.mark.parametrize("steps", [0, 1, 3])
async def test_body_is_received_however_often_the_server_suspends(steps: int) -> None:
    assert [message["body"] for message in await received_by(60, Body(steps))] == [b"{}"]


@pytest.mark.parametrize("steps", [0, 2])
async def test_body_that_never_begins_times_out(steps: int) -> None:
    body = Body(steps, ever=False)
    with pytest.raises(HTTPException) as raised:
        await received_by(0.01, body)
    assert (raised.value.status_code, raised.value.headers) == (408, {"Connection": "close"})
    assert body.cancelled


async def test_cancelled_request_stops_to_receive() -> None:
    body = Body(0, ever=False)
    request = asyncio.ensure_future(received_by(60, body))
    await body.waiting.wait()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert body.cancelled


async def test_only_a_body_that_is_awaited_has_a_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    timers: list[float] = []
    loop, call_at = asyncio.get_running_loop(), asyncio.get_running_loop().call_at

    def counted(when: float, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:
        timers.append(when)
        return call_at(when, *args, **kwargs)

    monkeypatch.setattr(loop, "call_at", counted)
    await received_by(60, Body(0))
    assert timers == []
    await received_by(60, Body(1))
    assert len(timers) == 1


def test_bucket_holds_one_second_of_tokens_and_refills() -> None:
    now = [0.0]
    buckets = Buckets(2.0, clock=lambda: now[0])
    assert [buckets.take("a"), buckets.take("a")] == [None, None]
    assert buckets.take("a") == 0.5
    assert buckets.take("b") is None
    now[0] += 0.5
    assert buckets.take("a") is None
    assert buckets.take("a") is not None
    now[0] += 1000
    assert [buckets.take("a") for _ in range(3)] == [None, None, 0.5]


def test_rate_below_one_per_second_works() -> None:
    now = [0.0]
    buckets = Buckets(0.1, clock=lambda: now[0])
    assert buckets.take("a") is None
    assert buckets.take("a") == pytest.approx(10.0)
    now[0] += 10.01
    assert buckets.take("a") is None


def test_stopped_clock_adds_no_tokens_and_memory_is_bounded() -> None:
    buckets = Buckets(1.0, clock=lambda: 0.0)
    for number in range(MAX_CALLERS + 500):
        assert buckets.take(f"caller {number}") is None
    assert callers_in(buckets) == MAX_CALLERS
    assert buckets.take(f"caller {MAX_CALLERS + 499}") is not None


async def test_rate_limited_caller_gets_retry_after(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    alice, again, bob = (key_for(file, Role.user, user) for user in ("alice", "alice", "bob"))
    async with serving(api_keys=file, rate_limit=0.01) as (_, client):
        first = await client.get("/coordinator/health", headers=alice)
        refused = [await client.get("/coordinator/health", headers=key) for key in (alice, again)]
        assert first.status_code == 200
        for answer in refused:  # another key of the same user is the same caller
            assert answer.status_code == 429
            assert 1 <= int(answer.headers["retry-after"]) <= 100
        assert (await client.get("/coordinator/health", headers=bob)).status_code == 200
        for _ in range(5):
            assert (await client.get("/ok", headers=alice)).status_code == 200


async def test_streams_and_waits_are_bounded_but_cancels_are_not() -> None:
    async with serving(max_streams=1) as (gateway, client):
        thread = (await client.post("/threads", json={})).json()["thread_id"]
        slow = {"assistant_id": "agent", "input": {"sleep": 60}}
        run = (await client.post(f"/threads/{thread}/runs", json=slow)).json()["run_id"]
        path = f"/threads/{thread}/runs/{run}"
        held = asyncio.create_task(client.get(f"{path}/join"))
        await wait_until(lambda: gateway.state.services.watchers.open == 1, description="the join waits")
        for refused in (
            await client.post("/runs/wait", json={"assistant_id": "agent"}),
            await client.post("/runs/stream", json={"assistant_id": "agent"}),
            await client.get(f"{path}/stream"),
        ):
            assert refused.status_code in (429, 503)
            assert refused.headers["retry-after"]
        runs = await client.get(f"/threads/{thread}/runs")
        assert [one["run_id"] for one in runs.json()] == [run], "a refused request starts no run"
        assert (await client.post(f"{path}/cancel?wait=1")).status_code == 200
        assert (await held).status_code == 200
        assert (await client.post("/runs/wait", json={"assistant_id": "agent"})).status_code == 200


async def test_streams_of_one_user_leave_room_for_others(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    alice, again, bob = (key_for(file, Role.user, user) for user in ("alice", "alice", "bob"))
    async with serving(api_keys=file, max_streams=8) as (gateway, client):
        watchers = gateway.state.services.watchers
        thread = (await client.post("/threads", json={}, headers=alice)).json()["thread_id"]
        slow = {"assistant_id": "agent", "input": {"sleep": 60}}
        run = (await client.post(f"/threads/{thread}/runs", json=slow, headers=alice)).json()["run_id"]
        path = f"/threads/{thread}/runs/{run}"
        held = [asyncio.create_task(client.get(f"{path}/join", headers=key)) for key in (alice, again)]
        await wait_until(lambda: watchers.open == 2, description="alice has a quarter of the places")
        for refused in (
            await client.get(f"{path}/join", headers=alice),
            await client.get(f"{path}/stream", headers=again),
            await client.post("/runs/wait", json={"assistant_id": "agent"}, headers=alice),
            await client.post("/runs/stream", json={"assistant_id": "agent"}, headers=alice),
        ):
            assert refused.status_code == 429
            assert refused.headers["retry-after"]
            assert "'alice' has 2 streams" in refused.json()["detail"]
        for verb in ("wait", "stream"):
            answer = await client.post(f"/runs/{verb}", json={"assistant_id": "agent"}, headers=bob)
            assert answer.status_code == 200
        stopped = await client.post(f"{path}/cancel?wait=1", headers=alice)
        assert stopped.status_code == 200, "a cancel needs no place"
        assert [(await one).status_code for one in held] == [200, 200]
        assert (await client.get(f"{path}/join", headers=alice)).status_code == 200, "places are free again"


def test_waiting_cancels_do_not_count_against_the_limit() -> None:
    watchers = Watchers(2, 1)
    with ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(watchers.reserve("alice", always=True))
        stack.enter_context(watchers.reserve("alice"))
        with pytest.raises(TooManyOpen, match="user 'alice' has 1 "), watchers.reserve("alice"):
            pass
        stack.enter_context(watchers.reserve("bob"))
        with pytest.raises(TooManyOpen, match="this worker has 2 "), watchers.reserve("carol"):
            pass
        with pytest.raises(TooManyOpen, match="this worker has 2 "), watchers.reserve(None):
            pass
        assert watchers.open == 7
    assert watchers.open == 0
    with watchers.reserve("alice"):
        pass


def test_share_of_a_user_is_a_quarter_unless_it_is_set() -> None:
    assert GatewaySettings().streams_per_user == 500
    assert GatewaySettings(max_streams=3).streams_per_user == 1
    assert GatewaySettings(max_streams=3, max_streams_per_user=2).streams_per_user == 2


async def test_waiting_runs_are_bounded_for_a_thread_and_for_a_user(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    key = key_for(file, Role.user, "alice")
    settings = Settings(tick=0.05, grace=0, max_waiting_per_thread=2, max_waiting_per_user=3)
    async with serving(manager=RunManager(settings=settings), api_keys=file, headers=key) as (_, client):
        slow = {"assistant_id": "agent", "input": {"sleep": 60}}
        threads = [(await client.post("/threads", json={})).json()["thread_id"] for _ in range(3)]
        answers = {
            (number, nth): await client.post(f"/threads/{thread}/runs", json=slow)
            for (number, thread), nth in itertools.product(enumerate(threads[:2]), range(4))
        }
        statuses = {place: answer.status_code for place, answer in answers.items()}
        # One runs, two wait; on the second thread one runs, one waits: then the user has three.
        assert statuses == {
            (0, 0): 200, (0, 1): 200, (0, 2): 200, (0, 3): 429,
            (1, 0): 200, (1, 1): 200, (1, 2): 429, (1, 3): 429,
        }  # fmt: skip
        assert answers[0, 3].headers["retry-after"]
        assert (await client.post(f"/threads/{threads[2]}/runs", json=slow)).status_code == 200
        replacing = {**slow, "multitask_strategy": "interrupt"}
        assert (await client.post(f"/threads/{threads[2]}/runs", json=replacing)).status_code == 429


async def test_run_beyond_the_limit_of_its_worker_waits_and_has_a_position() -> None:
    manager = RunManager(settings=Settings(tick=0.05, grace=0, max_running=1))
    async with serving(manager=manager) as (_, client):
        slow = {"assistant_id": "agent", "input": {"sleep": 60}}
        paths = [(await client.post("/threads", json={})).json()["thread_id"] for _ in range(3)]
        runs = [(await client.post(f"/threads/{thread}/runs", json=slow)).json() for thread in paths]
        path, first = (f"/threads/{run['thread_id']}/runs/{run['run_id']}" for run in (runs[2], runs[0]))
        await wait_until(lambda: manager.worker.waiting_for_place == 2, description="two runs wait")
        waiting = (await client.get(path)).json()
        assert (waiting["status"], waiting["position"]) == ("pending", 2)
        assert (await client.get(f"/runs/{runs[2]['run_id']}")).json()["position"] == 2
        assert "coordinator_worker_waiting_for_place 2.0" in (await client.get("/metrics")).text
        assert (await client.post(f"{first}/cancel", params={"wait": True})).status_code < 300
        assert (await client.get(path)).json()["position"] == 1


@pytest.mark.parametrize("size", [100, 2000])
async def test_metadata_is_bounded_on_every_route(size: int) -> None:
    metadata = {"a": "x" * size}
    async with serving(max_metadata_bytes=1000) as (_, client):
        thread = (await client.post("/threads", json={})).json()["thread_id"]
        run = {"assistant_id": "agent", "metadata": metadata}
        answers = [
            await client.post("/threads", json={"metadata": metadata}),
            await client.patch(f"/threads/{thread}", json={"metadata": metadata}),
            await client.post(f"/threads/{thread}/runs", json=run),
            await client.post("/runs", json=run),
            await client.post("/runs/batch", json=[{"assistant_id": "agent"}, run]),
        ]
    assert {answer.status_code for answer in answers} == {200 if size == 100 else 422}
