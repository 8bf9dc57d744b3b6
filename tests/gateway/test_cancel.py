"""Cancelling over HTTP: from the worker that has the run, and from another one."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.gateway.conftest import WITH_GRAPHS, Pair, pair_of
from tests.support.gateway_agents import UNWINDING
from tests.support.gateways import (
    Served,
    demo,
    log_of,
    new_thread,
    start_running,
    status_of,
    thread_status,
    until_gone,
    until_status,
)
from tests.support.waiting import wait_until

pair = pytest.fixture(pair_of, name="pair", params=WITH_GRAPHS)


async def test_cancelled_run_stops_and_keeps_its_saved_values(pair: Pair, thread: str) -> None:
    here, there = pair
    run = await start_running(here.sdk, thread, sleep=0.05, steps=1000, tag="a")

    async def has_worked() -> bool:
        return len(await log_of(there.sdk, thread)) >= 2

    await wait_until(has_worked, description="it has done a step or two")
    answer = await there.raw.post(f"/threads/{thread}/runs/{run}/cancel", params={"wait": 0})
    assert (answer.status_code, answer.content) == (202, b"")
    await until_status(there.sdk, thread, run, "interrupted")
    done = await log_of(there.sdk, thread)
    assert done[:2] == ["a:1", "a:2"]
    assert await log_of(here.sdk, thread) == done
    assert await thread_status(there.sdk, thread) in ("interrupted", "idle")


async def test_cancel_with_wait_responds_when_the_task_has_stopped(plain: Pair) -> None:
    here, there = plain
    thread = await new_thread(here.sdk)
    run = await start_running(here.sdk, thread, "slow_to_stop", tag="a")
    began = time.monotonic()
    values: Any = await there.sdk.runs.cancel(thread, run, wait=True)
    assert time.monotonic() - began >= UNWINDING
    assert values == {"log": ["a:begun"]}
    assert await status_of(there.sdk, thread, run) == "interrupted"
    await there.sdk.runs.wait(thread, "agent", input=demo(tag="b"), multitask_strategy="reject")
    assert await log_of(here.sdk, thread) == ["a:begun", "b:1"]


async def test_cancel_with_wait_has_a_location_to_resume(pair: Pair, thread: str) -> None:
    here, there = pair
    run = await start_running(here.sdk, thread, sleep=60)
    answer = await there.raw.post(f"/threads/{thread}/runs/{run}/cancel", params={"wait": 1})
    assert answer.status_code == 200
    assert answer.headers["location"] == f"/threads/{thread}/runs/{run}/join"
    assert answer.headers["content-location"] == f"/threads/{thread}/runs/{run}"
    assert answer.json() == {}


async def test_cancelled_run_is_shown_as_running_until_its_task_has_stopped(pair: Pair, thread: str) -> None:
    here, there = pair
    run = await start_running(here.sdk, thread, "slow_to_stop")
    await there.sdk.runs.cancel(thread, run, wait=False)
    shown = (await there.raw.get(f"/threads/{thread}/runs/{run}")).json()
    assert (shown["status"], shown["cancelling"]) == ("running", True)
    assert await thread_status(there.sdk, thread) == "busy"
    await until_status(there.sdk, thread, run, "interrupted")
    shown = (await there.raw.get(f"/threads/{thread}/runs/{run}")).json()
    assert (shown["cancelling"], shown["cancel_reason"]) == (False, "user")


@pytest.mark.parametrize("wait", [False, True])
async def test_rolled_back_run_is_not_found(pair: Pair, thread: str, wait: bool) -> None:
    here, there = pair
    await here.sdk.runs.wait(thread, "agent", input=demo(tag="before"))
    run = await start_running(here.sdk, thread, sleep=0.05, steps=1000, tag="a")

    async def has_worked() -> bool:
        return "a:1" in await log_of(there.sdk, thread)

    await wait_until(has_worked, description="it has done a step")
    values: Any = await there.sdk.runs.cancel(thread, run, wait=wait, action="rollback")
    await until_gone(there.raw, f"/threads/{thread}/runs/{run}")
    assert not wait or values["log"] == ["before:1"]
    assert await log_of(there.sdk, thread) == ["before:1"]
    assert [r["run_id"] for r in await there.sdk.runs.list(thread)].count(run) == 0
    assert await thread_status(there.sdk, thread) == "idle"
    for path in ("", "/join", "/stream"):
        assert (await here.raw.get(f"/threads/{thread}/runs/{run}{path}")).status_code == 404
    assert (await here.raw.post(f"/threads/{thread}/runs/{run}/cancel")).status_code == 404


@pytest.mark.parametrize("action", ["interrupt", "rollback"])
async def test_cancelled_queued_run_never_starts(pair: Pair, thread: str, action: Any) -> None:
    here, there = pair
    first = await start_running(here.sdk, thread, sleep=0.1, steps=5, tag="a")
    second = (await here.sdk.runs.create(thread, "agent", input=demo(tag="b")))["run_id"]
    await there.sdk.runs.cancel(thread, second, action=action, wait=True)
    assert await thread_status(there.sdk, thread) == "busy"  # the first one still runs
    await there.sdk.runs.join(thread, first)
    assert await log_of(there.sdk, thread) == [f"a:{i}" for i in range(1, 6)]
    listed = [(r["run_id"], r["status"]) for r in await there.sdk.runs.list(thread)]
    kept = [(second, "interrupted")] if action == "interrupt" else []
    assert listed == [*kept, (first, "success")]


async def test_cancel_is_idempotent(pair: Pair, thread: str) -> None:
    here, there = pair
    run = await start_running(here.sdk, thread, "slow_to_stop", tag="a")
    path = f"/threads/{thread}/runs/{run}/cancel"
    answers = await asyncio.gather(*(served.raw.post(path) for served in (here, there) for _ in range(5)))
    assert {answer.status_code for answer in answers} == {202}
    await there.sdk.runs.cancel(thread, run, wait=True)
    assert (await here.raw.post(path)).status_code == 202
    assert (await here.raw.post(path, params={"wait": "true"})).json() == {"log": ["a:begun"]}


@pytest.mark.parametrize("fail", [False, True])
async def test_cancel_of_an_ended_run_is_not_found(pair: Pair, thread: str, fail: bool) -> None:
    here, there = pair
    run = (await here.sdk.runs.create(thread, "agent", input=demo(fail=fail)))["run_id"]
    await here.sdk.runs.join(thread, run)
    for wait in (0, 1):
        answer = await there.raw.post(f"/threads/{thread}/runs/{run}/cancel", params={"wait": wait})
        assert answer.status_code == 404
    assert await status_of(there.sdk, thread, run) == ("error" if fail else "success")


async def test_parameters_of_cancel_are_validated(pair: Pair, thread: str) -> None:
    here, there = pair
    run = await start_running(here.sdk, thread, sleep=60)
    path = f"/threads/{thread}/runs/{run}/cancel"
    assert (await there.raw.post(path, params={"action": "banana"})).status_code == 422
    assert (await there.raw.post(path, params={"wait": "perhaps"})).status_code == 422
    assert (await there.raw.post(f"/threads/{thread}/runs/{uuid4()}/cancel")).status_code == 404
    other = await new_thread(here.sdk)
    assert (await there.raw.post(f"/threads/{other}/runs/{run}/cancel")).status_code == 404
    assert await status_of(there.sdk, thread, run) == "running"


async def test_next_queued_run_starts_after_the_cancelled_one_has_stopped(plain: Pair) -> None:
    here, there = plain
    thread = await new_thread(here.sdk)
    first = await start_running(here.sdk, thread, "slow_to_stop", tag="a")
    second = (await there.sdk.runs.create(thread, "agent", input=demo(tag="b")))["run_id"]
    began = time.monotonic()
    await there.sdk.runs.cancel(thread, first)
    await here.sdk.runs.join(thread, second)
    assert time.monotonic() - began >= UNWINDING
    assert await log_of(here.sdk, thread) == ["a:begun", "b:1"]


class TestMany:
    async def test_cancel_many_by_run_ids(self, pair: Pair, thread: str) -> None:
        here, there = pair
        first = await start_running(here.sdk, thread, sleep=60)
        waiting = [(await here.sdk.runs.create(thread, "agent", input=demo()))["run_id"] for _ in range(3)]
        await there.sdk.runs.cancel_many(thread_id=thread, run_ids=[first, waiting[0], str(uuid4())])
        await until_status(there.sdk, thread, first, "interrupted")
        assert await status_of(there.sdk, thread, waiting[0]) == "interrupted"
        await until_status(there.sdk, thread, waiting[2], "success")

    async def test_cancel_many_by_status(self, pair: Pair, thread: str) -> None:
        here, there = pair
        threads = [thread, await new_thread(here.sdk)]
        running = [await start_running(here.sdk, t, sleep=60) for t in threads]
        waiting = [(await here.sdk.runs.create(t, "agent", input=demo()))["run_id"] for t in threads]
        await there.sdk.runs.cancel_many(status="pending")
        for t, run in zip(threads, waiting, strict=True):
            assert await status_of(there.sdk, t, run) == "interrupted"
        for t, run in zip(threads, running, strict=True):
            assert await status_of(there.sdk, t, run) == "running"
        await there.sdk.runs.cancel_many(status="all", action="rollback")
        for t, run in zip(threads, running, strict=True):
            await until_gone(there.raw, f"/threads/{t}/runs/{run}")

    async def test_body_of_cancel_many_is_validated(self, one: Served) -> None:
        some, other = str(uuid4()), str(uuid4())
        expected: list[tuple[dict[str, Any], int]] = [
            ({}, 422),
            ({"status": "all", "run_ids": [some]}, 422),
            ({"run_ids": [some]}, 422),
            ({"thread_id": some, "run_ids": ["nope"]}, 422),
            ({"status": "success"}, 422),
            ({"status": "all"}, 404),
            ({"thread_id": some, "run_ids": [other]}, 404),
        ]
        for body, status in expected:
            answer = await one.raw.post("/runs/cancel", json=body)
            assert (answer.status_code, bool(answer.json()["detail"])) == (status, True), body

    async def test_cancel_many_ignores_ended_runs(self, pair: Pair, thread: str) -> None:
        here, there = pair
        run = (await here.sdk.runs.create(thread, "agent", input=demo()))["run_id"]
        await here.sdk.runs.join(thread, run)
        body = {"thread_id": thread, "run_ids": [run]}
        assert (await there.raw.post("/runs/cancel", json=body)).status_code == 404


class TestDelete:
    async def test_deleting_a_running_run_stops_it_first(self, pair: Pair, thread: str) -> None:
        here, there = pair
        run = await start_running(here.sdk, thread, "slow_to_stop", tag="a")
        await there.sdk.runs.delete(thread, run)
        assert (await here.raw.get(f"/threads/{thread}/runs/{run}")).status_code == 404
        assert await thread_status(here.sdk, thread) == "idle"
        await here.sdk.runs.wait(thread, "agent", input=demo(), multitask_strategy="reject")

    async def test_deleting_a_queued_run_removes_it(self, pair: Pair, thread: str) -> None:
        here, there = pair
        first = await start_running(here.sdk, thread, sleep=0.2)
        second = (await here.sdk.runs.create(thread, "agent", input=demo(tag="b")))["run_id"]
        await there.sdk.runs.delete(thread, second)
        assert (await here.raw.get(f"/threads/{thread}/runs/{second}")).status_code == 404
        await here.sdk.runs.join(thread, first)
        assert await log_of(there.sdk, thread) == ["run:1"]

    async def test_deleting_a_thread_stops_all_its_runs(self, pair: Pair, thread: str) -> None:
        here, there = pair
        runs = [await start_running(here.sdk, thread, "slow_to_stop")]
        runs += [(await here.sdk.runs.create(thread, "agent", input=demo()))["run_id"] for _ in range(3)]
        await there.sdk.threads.delete(thread)
        for served in (here, there):
            assert (await served.raw.get(f"/threads/{thread}")).status_code == 404
            for run in runs:
                assert (await served.raw.get(f"/threads/{thread}/runs/{run}")).status_code == 404
        assert (await here.raw.delete(f"/threads/{thread}")).status_code == 404


async def test_cancel_before_the_stream_opens_takes_effect(pair: Pair, thread: str) -> None:
    here, there = pair
    async with here.raw.stream(
        "POST", f"/threads/{thread}/runs/stream", json={"assistant_id": "agent", "input": demo(sleep=60)}
    ) as streamed:
        path = streamed.headers["content-location"]
        assert (await there.raw.post(f"{path}/cancel")).status_code == 202
        body = b"".join([chunk async for chunk in streamed.aiter_raw()])
    assert b"event: metadata" in body
    assert b"event: error" not in body
    assert (await there.raw.get(path)).json()["status"] == "interrupted"


async def test_sdk_raises_errors_for_refused_cancels(pair: Pair, thread: str) -> None:
    with pytest.raises(httpx.HTTPStatusError):
        await pair[1].sdk.runs.cancel(thread, str(uuid4()), wait=True)
