"""The stream of a thread: its runs, one after another, from any worker, from any event."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.gateway.conftest import UNLINKED, Pair, pair_of
from tests.support.gateway_agents import GATES
from tests.support.gateways import Served, demo, new_thread, until_read
from tests.support.held import hold_answers
from tests.support.sse import Sent, all_events, events
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_exception_is_logged")
pair = pytest.fixture(pair_of, params=UNLINKED)


class Watched:
    """The events that a client of a thread's stream has received so far."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []

    async def until(self, holds: Callable[[list[Sent]], bool], description: str) -> list[Sent]:
        await wait_until(lambda: holds(self.sent), description=f"{description}: {self.sent}")
        return self.sent

    async def until_done(self, *runs: str) -> list[Sent]:
        return await self.until(lambda sent: [run for run in done(sent) if run in runs] == list(runs), "done")


def done(sent: list[Sent]) -> list[str]:
    return [one.data["run_id"] for one in sent if one.event == "metadata" and "status" in one.data]


@asynccontextmanager
async def watching(
    served: Served, thread: str, last: str | None = None, **params: Any
) -> AsyncGenerator[Watched]:
    watched, begun = Watched(), asyncio.Event()

    async def read() -> None:
        headers = {} if last is None else {"Last-Event-ID": last}
        async with served.raw.stream(
            "GET", f"/threads/{thread}/stream", headers=headers, params=params
        ) as response:
            assert response.status_code == 200
            begun.set()
            async for one in events(response):
                watched.sent.append(one)

    reading = asyncio.create_task(read())
    await begun.wait()
    try:
        yield watched
    finally:
        reading.cancel()
        await asyncio.wait([reading])


async def ended(served: Served, thread: str, assistant: str = "agent", **more: Any) -> str:
    run = await served.sdk.runs.create(thread, assistant, **more)
    await served.sdk.runs.join(thread, run["run_id"])
    return run["run_id"]


async def test_runs_are_streamed_in_order_of_start(pair: Pair, thread: str) -> None:
    local, remote = pair
    await ended(local, thread, input=demo(steps=1, tag="before"))
    async with watching(remote, thread) as watched:
        first = await ended(local, thread, input=demo(steps=2, tag="a"))
        second = await ended(local, thread, input=demo(steps=2, fail=True, tag="b"))
        sent = await watched.until_done(first, second)
    assert [(one.event, one.data) for one in sent] == [
        ("metadata", {"run_id": first, "attempt": 1}),
        ("values", {"log": ["before:1", "a:1"], "done": 1, "steps": 2}),
        ("values", {"log": ["before:1", "a:1", "a:2"], "done": 2, "steps": 2}),
        ("metadata", {"status": "run_done", "run_id": first}),
        ("metadata", {"run_id": second, "attempt": 1}),
        ("values", {"log": ["before:1", "a:1", "a:2", "b:1"], "done": 1, "steps": 2}),
        ("error", {"error": "ValueError", "message": "demo failure requested"}),
        ("metadata", {"status": "run_done", "run_id": second}),
    ]


async def test_thread_stream_resumes_after_any_event_on_any_worker(pair: Pair, thread: str) -> None:
    local, remote = pair
    runs = [await ended(local, thread, input=demo(steps=2, tag=tag)) for tag in "ab"]
    async with watching(remote, thread, "-1") as watched:
        whole = list(await watched.until_done(*runs))
    ids = [str(one.id) for one in whole]
    assert len(set(ids)) == len(ids) == 8
    for seen in (0, 1, 2, 3, 4, 6):
        async with watching(remote, thread, ids[seen]) as watched:
            rest = await watched.until(lambda sent: runs[1] in done(sent), "the rest")
            assert rest == whole[seen + 1 :]


async def test_active_run_is_streamed_from_now_on(pair: Pair, thread: str) -> None:
    local, remote = pair
    run = await local.sdk.runs.create(thread, "gated", input={"gate": thread}, stream_mode="custom")
    await until_read(remote, run["run_id"], "waiting")
    waiting = await local.sdk.runs.create(thread, "agent", input=demo(steps=1))
    async with watching(remote, thread) as watched:
        GATES[thread].set()
        sent = await watched.until_done(run["run_id"], waiting["run_id"])
    assert [one.event for one in sent] == ["metadata", "custom", "metadata", "metadata", "values", "metadata"]
    assert sent[1].data == "through"


async def test_lifecycle_leaves_the_events_out(pair: Pair, thread: str) -> None:
    local, remote = pair
    async with watching(remote, thread, stream_mode="lifecycle") as watched:
        run = await ended(local, thread, input=demo(steps=3))
        sent = await watched.until_done(run)
    assert [one.event for one in sent] == ["metadata", "metadata"]


async def test_sdk_joins_a_thread_stream(pair: Pair, thread: str) -> None:
    local, remote = pair
    run = await ended(local, thread, input=demo(steps=1))
    parts: list[Any] = []
    async for part in await remote.sdk.threads.join_stream(thread, last_event_id="-1"):
        parts.append(part)
        if part.event == "metadata" and part.data.get("status") == "run_done":
            break
    assert [part.event for part in parts] == ["metadata", "values", "metadata"]
    assert parts[0].data["run_id"] == run


async def test_deleted_run_is_a_gap_and_deleted_thread_ends_the_stream(pair: Pair, thread: str) -> None:
    local, remote = pair
    removed_run = await ended(local, thread)
    await local.sdk.runs.delete(thread, removed_run)
    async with watching(remote, thread, f"{removed_run}/1-1") as watched:
        sent = await watched.until(bool, "a gap")
        assert [one.event for one in sent] == ["gap"]
    await local.sdk.threads.delete(thread)
    assert (await remote.raw.get(f"/threads/{thread}/stream")).status_code == 404


async def test_thread_stream_ends_with_its_thread(pair: Pair, thread: str) -> None:
    local, remote = pair
    async with watching(remote, thread) as watched:
        await local.sdk.threads.delete(thread)
        sent = await watched.until(bool, "its end")
    assert [(one.event, one.data["error"]) for one in sent] == [("error", "ThreadNotFound")]


async def test_run_that_is_deleted_before_its_events_are_read_is_a_gap(one: Served) -> None:
    thread = await new_thread(one.sdk)
    removed_run = await ended(one, thread)
    held = hold_answers(one.manager.runs, "get")

    async def delete() -> None:
        await held.reached.wait()
        await one.manager.runs.delete(removed_run)
        held.go_on.set()

    deleting = asyncio.create_task(delete())
    async with watching(one, thread, f"{removed_run}/1-1") as watched:
        await deleting
        await watched.until(bool, "a gap")
        run = await ended(one, thread)
        sent = await watched.until_done(run)
    assert [one.event for one in sent][:2] == ["gap", "metadata"]


async def test_heartbeats_are_sent_while_no_run_is_active(one: Served) -> None:
    thread = await new_thread(one.sdk)
    async with one.raw.stream("GET", f"/threads/{thread}/stream") as response:
        chunks = response.aiter_raw()
        for _ in range(3):
            assert await anext(chunks) == b": heartbeat\r\n\r\n"


@pytest.mark.parametrize("wrong", ["abc", "1-1", "/1-1", "r/1", f"r/{10**30}-0"])
async def test_invalid_last_event_id_is_refused(one: Served, wrong: str) -> None:
    thread = await new_thread(one.sdk)
    answer = await one.raw.get(f"/threads/{thread}/stream", headers={"Last-Event-ID": wrong})
    assert answer.status_code == 422
    refused = await one.raw.get(f"/threads/{thread}/stream", params={"stream_mode": "state_update"})
    assert refused.status_code == 422


async def test_id_of_an_unknown_run_streams_from_now_on_after_a_gap(one: Served) -> None:
    thread = await new_thread(one.sdk)
    async with watching(one, thread, "unknown/1-1") as watched:
        await watched.until(bool, "a gap")
        run = await ended(one, thread)
        sent = await watched.until_done(run)
    assert sent[0].event == "gap"
    assert await all_events(one.raw, "GET", f"/threads/{thread}/runs/{run}/stream") == []
