"""Every way in which a stream can end. A body that ends regularly without `gap` and `error` is complete; no
other stream ends this way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Message

from coordinator.errors import StoreUnavailable
from coordinator.event_logs.store import StoreEventLog
from coordinator.gateway.long_lived_responses import LongLivedResponse, SendBody, Watchers
from coordinator.gateway.streams import HEARTBEAT, next_items
from coordinator.servers.valkey import ValkeyServer
from tests.gateway.conftest import Pair
from tests.support.gateway_agents import GATES
from tests.support.gateways import Served, demo, gateways, new_thread, until_read, until_status
from tests.support.inside import assembly_of, local_log_of, runs_with_events_in
from tests.support.inside_stores import write_of
from tests.support.sse import Sent, events
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_task_left", "no_exception_is_logged")


@dataclass
class Stream:
    """The events that a client received, and the end: `whole`, `gap`, `error`, or `broken` (aborted)."""

    sent: list[Sent] = field(default_factory=list[Sent])
    headers: asyncio.Event = field(default_factory=asyncio.Event)
    end: str = "open"

    @property
    def names(self) -> list[str]:
        return [one.event for one in self.sent]

    async def read(self, client: httpx.AsyncClient, method: str, path: str, **options: Any) -> str:
        try:
            async with client.stream(method, path, **options) as response:
                assert response.status_code == 200
                self.headers.set()
                async for one in events(response):
                    self.sent.append(one)
        except httpx.RemoteProtocolError:
            self.end = "broken"
        else:
            self.end = next((name for name in ("error", "gap") if name in self.names), "whole")
        return self.end


def begun(client: httpx.AsyncClient, method: str, path: str, **options: Any) -> tuple[Stream, Any]:
    stream = Stream()
    return stream, asyncio.create_task(stream.read(client, method, path, **options))


@dataclass
class Scene:
    """Two workers, and a run that has emitted "waiting" and waits for its gate."""

    local: Served
    remote: Served
    thread: str
    run: str

    @property
    def path(self) -> str:
        return f"/threads/{self.thread}/runs/{self.run}/stream"

    def open_gate(self) -> None:
        GATES.setdefault(self.thread, asyncio.Event()).set()

    async def follow(self, at: Served, last_event_id: str | None = "-1") -> tuple[Stream, Any]:
        headers = {} if last_event_id is None else {"Last-Event-ID": last_event_id}
        stream, task = begun(at.raw, "GET", self.path, headers=headers)
        await stream.headers.wait()
        if last_event_id == "-1":
            await wait_until(
                lambda: len(stream.sent) >= 2, description="the client has received that the run waits"
            )
        return stream, task

    async def over(self) -> None:
        self.open_gate()
        await self.remote.sdk.runs.join(self.thread, self.run)


async def scene_of(pair: Pair, *, resumable: bool = True) -> Scene:
    local, remote = pair
    thread = await new_thread(local.sdk)
    run = await local.sdk.runs.create(
        thread, "gated", input={"gate": thread}, stream_mode="custom", stream_resumable=resumable
    )
    await until_status(remote.sdk, thread, run["run_id"], "running")
    await until_read(remote, run["run_id"], "waiting")
    return Scene(local, remote, thread, run["run_id"])


@pytest.fixture(params=["redis", "store"])
async def pair(
    request: pytest.FixtureRequest, tmp_path: Path, own_valkey: ValkeyServer, namespace: str
) -> AsyncGenerator[Pair]:
    url = own_valkey.url if request.param == "redis" else None
    async with gateways(2, tmp_path, url, namespace) as (local, remote):
        yield local, remote


def lose_logs(pair: Pair, folder: Path, server: ValkeyServer) -> Awaitable[Any]:
    """Removes the logs, like `FLUSHALL` or the expiry of their time to live."""
    store: Any = assembly_of(pair[0].manager).shared.store
    server.command("FLUSHALL")
    for one in pair:
        log = assembly_of(one.manager).shared.event_log
        if isinstance(log, StoreEventLog):
            local_log = local_log_of(log)
            for run_id in runs_with_events_in(local_log):
                local_log.forget(run_id)

    def delete(cx: Any, now: int) -> None:
        del now
        cx.execute("DELETE FROM run_events")
        cx.execute("DELETE FROM event_logs")

    return write_of(store)(delete)


class TestEndOfStream:
    async def test_complete_stream_ends_without_gap(self, pair: Pair) -> None:
        scene = await scene_of(pair)
        followers = [await scene.follow(served) for served in pair]
        scene.open_gate()
        for stream, task in followers:
            assert await task == "whole"
            assert [one.data for one in stream.sent[1:]] == ["waiting", "through"]

    async def test_stream_from_now_on_ends_without_gap(self, pair: Pair) -> None:
        scene = await scene_of(pair, resumable=False)
        stream, task = await scene.follow(scene.remote, None)
        scene.open_gate()
        assert await task == "whole"
        assert [one.data for one in stream.sent] == ["through"]
        assert await Stream().read(scene.remote.raw, "GET", scene.path) == "whole"  # no event follows

    async def test_failed_run_ends_its_stream_with_error(self, pair: Pair) -> None:
        local, remote = pair
        thread = await new_thread(local.sdk)
        run = await local.sdk.runs.create(
            thread, "agent", input=demo(steps=2, fail=True), stream_resumable=True
        )
        await remote.sdk.runs.join(thread, run["run_id"])
        path = f"/threads/{thread}/runs/{run['run_id']}/stream"
        for served in pair:
            headers = {"Last-Event-ID": "-1"}
            assert await Stream().read(served.raw, "GET", path, headers=headers) == "error"

    async def test_failed_run_sends_error_to_a_client_that_rejoins_without_id(self, pair: Pair) -> None:
        """The worker was killed during a stream without ids: the client has received only a part."""
        local, remote = pair
        thread = await new_thread(local.sdk)
        run = await local.sdk.runs.create(thread, "agent", input=demo(steps=2, fail=True))
        await remote.sdk.runs.join(thread, run["run_id"])
        path = f"/threads/{thread}/runs/{run['run_id']}/stream"
        for headers, names in (({}, ["error"]), ({"Last-Event-ID": "-1"}, ["gap", "error"])):
            stream = Stream()
            assert await stream.read(remote.raw, "GET", path, headers=headers) == "error"
            assert stream.names == names

    async def test_interrupted_run_ends_its_stream_without_error(self, pair: Pair) -> None:
        scene = await scene_of(pair)
        stream, task = await scene.follow(scene.remote)
        await scene.remote.sdk.runs.cancel(scene.thread, scene.run)
        assert await task == "whole"
        assert [one.data for one in stream.sent[1:]] == ["waiting"]


class TestLost:
    async def test_lost_log_of_a_settled_run_is_a_gap(
        self, pair: Pair, tmp_path: Path, own_valkey: ValkeyServer
    ) -> None:
        """From the start as well: it cannot be proven that the run emitted nothing."""
        scene = await scene_of(pair)
        await scene.over()
        await lose_logs(pair, tmp_path, own_valkey)
        for served in pair:
            for last_event_id in ("-1", "1-1"):
                stream = Stream()
                headers = {"Last-Event-ID": last_event_id}
                assert await stream.read(served.raw, "GET", scene.path, headers=headers) == "gap"

    async def test_lost_log_of_a_running_run_is_a_gap(
        self, pair: Pair, tmp_path: Path, own_valkey: ValkeyServer
    ) -> None:
        scene = await scene_of(pair)
        await lose_logs(pair, tmp_path, own_valkey)
        stream, task = begun(scene.remote.raw, "GET", scene.path, headers={"Last-Event-ID": "-1"})
        await stream.headers.wait()
        scene.open_gate()
        assert await task == "gap"
        assert "custom" in stream.names

    async def test_rejoining_a_run_without_ids_is_a_gap(self, pair: Pair) -> None:
        scene = await scene_of(pair, resumable=False)
        stream, task = begun(scene.remote.raw, "GET", scene.path, headers={"Last-Event-ID": "-1"})
        await stream.headers.wait()
        scene.open_gate()
        assert await task == "gap"
        assert stream.names == ["gap", "custom"]
        await scene.over()
        late = Stream()
        assert await late.read(scene.remote.raw, "GET", scene.path, headers={"Last-Event-ID": "-1"}) == "gap"
        assert late.names == ["gap"]

    async def test_trimmed_log_is_a_gap(
        self, tmp_path: Path, own_valkey: ValkeyServer, namespace: str
    ) -> None:
        bound = {"event_log_max": 400}
        async with gateways(2, tmp_path, own_valkey.url, namespace, settings=bound) as (local, remote):
            thread = await new_thread(local.sdk)
            run = await local.sdk.runs.create(
                thread, "talker", input={"times": 200}, stream_mode="custom", stream_resumable=True
            )
            await remote.sdk.runs.join(thread, run["run_id"])
            path = f"/threads/{thread}/runs/{run['run_id']}/stream"
            assert await Stream().read(remote.raw, "GET", path, headers={"Last-Event-ID": "-1"}) == "gap"


REMOVALS: dict[str, Callable[[Scene], Awaitable[Any]]] = {
    "the run": lambda scene: scene.remote.sdk.runs.delete(scene.thread, scene.run),
    "its thread": lambda scene: scene.remote.sdk.threads.delete(scene.thread),
}


class TestRemoved:
    @pytest.mark.parametrize("what", REMOVALS)
    async def test_removing_a_followed_run_ends_the_stream_with_gap_and_error(
        self, pair: Pair, what: str
    ) -> None:
        """The follower has stopped reading: it buffers a page, and requests the next one after the
        removal."""
        scene = await scene_of(pair)
        stream, task = await scene.follow(scene.remote)
        queries: Any = assembly_of(scene.remote.manager).runs.queries
        original, removed = queries.row_or_record, asyncio.Event()

        async def late(*args: Any) -> Any:
            await removed.wait()
            return await original(*args)

        queries.row_or_record = late
        try:
            scene.open_gate()
            await scene.local.manager.wait(scene.run)
            await REMOVALS[what](scene)
        finally:
            queries.row_or_record = original
            removed.set()
        assert await task == "error"
        assert stream.names[-2:] == ["gap", "error"]
        assert stream.sent[-1].data["error"] == "RunNotFound"


class TestLeft:
    async def test_draining_worker_aborts_streams(self, pair: Pair) -> None:
        scene = await scene_of(pair)
        stream, task = await scene.follow(scene.remote)
        scene.remote.gateway.abort_streams()
        assert await task == "broken"
        assert stream.names == ["metadata", "custom"]
        scene.open_gate()

    async def test_closed_store_aborts_streams(self, pair: Pair) -> None:
        scene = await scene_of(pair)
        _, task = await scene.follow(scene.remote)
        await scene.remote.manager.aclose()
        assert await task == "broken"
        scene.open_gate()

    async def test_log_without_a_last_number_ends_with_a_gap(self, pair: Pair) -> None:
        """This is so after the death of a worker: its peers end the run, and its last events are unknown."""
        scene = await scene_of(pair)
        owner: Any = assembly_of(scene.local.manager).shared
        owner.events.close = _nothing
        await scene.over()
        await until_read(scene.remote, scene.run, "through")
        stream = Stream()
        headers = {"Last-Event-ID": "-1"}
        assert await stream.read(scene.remote.raw, "GET", scene.path, headers=headers) == "gap"
        assert [one.data for one in stream.sent[1:3]] == ["waiting", "through"]


def _nothing(*args: Any, **options: Any) -> None:
    del args, options


class Answer(LongLivedResponse):
    """Sends one chunk."""

    async def respond(self, start: Callable[[], Awaitable[None]], send: SendBody) -> None:
        await start()
        await send(b"x")


@pytest.mark.parametrize(
    ("error", "disconnected"),
    [(None, False), (ConnectionResetError("gone"), True), (RuntimeError("of ours"), False)],
    ids=["none", "of the connection", "another"],
)
async def test_failing_connection_counts_as_disconnect(error: Exception | None, disconnected: bool) -> None:
    """An OSError means that the client has disconnected; any other exception is raised."""
    disconnects, messages = list[str](), list[Message]()

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        if error is not None and message["type"] == "http.response.body":
            raise error
        messages.append(message)

    async def on_disconnect() -> None:
        disconnects.append("delivered")

    watchers = Watchers(1, 1)
    with watchers.reserve(None) as place:
        answer = Answer(place, headers={}, on_disconnect=on_disconnect)
    with pytest.raises(RuntimeError, match="of ours") if isinstance(error, RuntimeError) else nullcontext():
        await answer({"type": "http"}, receive, send)
    assert disconnects == (["delivered"] if disconnected else [])
    assert len(messages) == (3 if error is None else 1)
    assert watchers.open == 0


class TestSlow:
    """A client that reads more slowly than the retention of its run."""

    @pytest.fixture(params=["redis", "store"])
    async def pair(
        self, request: pytest.FixtureRequest, tmp_path: Path, own_valkey: ValkeyServer, namespace: str
    ) -> AsyncGenerator[Pair]:
        url = own_valkey.url if request.param == "redis" else None
        async with gateways(2, tmp_path, url, namespace, settings={"keep_temporary": 1.0}) as (local, remote):
            yield local, remote

    @pytest.mark.parametrize("worker", ["its own", "another"])
    async def test_stateless_run_is_kept_while_a_client_reads(self, pair: Pair, worker: str) -> None:
        local, remote = pair
        body = {
            "assistant_id": "talker",
            "input": {"times": 400},
            "stream_mode": "custom",
            "stream_resumable": True,
        }
        run = (await local.raw.post("/runs", json=body)).json()
        served = local if worker == "its own" else remote
        follower = served.manager.follow(run["run_id"], modes=["custom"])
        async with follower:
            first = await anext(follower)
            await local.manager.wait(run["run_id"])
            await asyncio.sleep(3.0)  # three times the retention, whose length is tested
            disconnected = [first, *[one async for one in follower]]
        assert [getattr(one, "data", None) for one in disconnected[:-1]] == [
            {"number": n} for n in range(400)
        ]
        assert getattr(disconnected[-1], "complete", None) is True

        async def removed() -> bool:
            return (await remote.raw.get(f"/runs/{run['run_id']}")).status_code == 404

        await wait_until(removed, description="the run is removed when no client reads it")


async def test_heartbeats_during_an_outage_have_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.gateway.streams._RETRY_DELAY", 60.0)
    sent, first = list[bytes](), asyncio.Event()

    class Away:
        async def batch(self, within: float) -> list[Any]:
            del within
            await asyncio.sleep(0)
            raise StoreUnavailable("it is away")

    async def send(frame: bytes) -> None:
        sent.append(frame)
        first.set()

    follower: Any = Away()
    waiting = asyncio.create_task(next_items(follower, 15.0, send))
    await first.wait()
    for _ in range(20):
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert sent == [HEARTBEAT]
