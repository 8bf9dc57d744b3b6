"""Cancelling over HTTP: from the worker that has the run, and from another one."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
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
    local, remote = pair
    run = await start_running(local.sdk, thread, sleep=0.05, steps=1000, tag="a")

    async def has_worked() -> bool:
        return len(await log_of(remote.sdk, thread)) >= 2

    await wait_until(has_worked, description="the run has done a step or two")
    answer = await remote.raw.post(f"/threads/{thread}/runs/{run}/cancel", params={"wait": 0})
    assert (answer.status_code, answer.content) == (202, b"")
    await until_status(remote.sdk, thread, run, "interrupted")
    done = await log_of(remote.sdk, thread)
    assert done[:2] == ["a:1", "a:2"]
    assert await log_of(local.sdk, thread) == done
    assert await thread_status(remote.sdk, thread) in ("interrupted", "idle")


async def test_cancel_with_wait_responds_when_the_task_has_stopped(plain: Pair) -> None:
    local, remote = plain
    thread = await new_thread(local.sdk)
    run = await start_running(local.sdk, thread, "slow_to_stop", tag="a")
    began = time.monotonic()
    values: Any = await remote.sdk.runs.cancel(thread, run, wait=True)
    assert time.monotonic() - began >= UNWINDING
    assert values == {"log": ["a:begun"]}
    assert await status_of(remote.sdk, thread, run) == "interrupted"
    await remote.sdk.runs.wait(thread, "agent", input=demo(tag="b"), multitask_strategy="reject")
    assert await log_of(local.sdk, thread) == ["a:begun", "b:1"]


async def test_cancel_with_wait_has_a_location_to_resume(pair: Pair, thread: str) -> None:
    local, remote = pair
    run = await start_running(local.sdk, thread, sleep=60)
    answer = await remote.raw.post(f"/threads/{thread}/runs/{run}/cancel", params={"wait": 1})
    assert answer.status_code == 200
    assert answer.headers["location"] == f"/threads/{thread}/runs/{run}/join"
    assert answer.headers["content-location"] == f"/threads/{thread}/runs/{run}"
    values = (await remote.raw.get(f"/threads/{thread}")).json()["values"]  # a function leaves none
    assert answer.json() == (values or {})


async def test_cancelled_run_is_shown_as_running_until_its_task_has_stopped(
    pair: Pair, thread: str, tmp_path: Path
) -> None:
    local, remote = pair
    run = await start_running(local.sdk, thread, "slow_to_stop", until=str(tmp_path / "stop"))
    await remote.sdk.runs.cancel(thread, run, wait=False)
    shown = (await remote.raw.get(f"/threads/{thread}/runs/{run}")).json()
    assert (shown["status"], shown["cancelling"]) == ("running", True)
    assert await thread_status(remote.sdk, thread) == "busy"
    (tmp_path / "stop").touch()
    await until_status(remote.sdk, thread, run, "interrupted")
    shown = (await remote.raw.get(f"/threads/{thread}/runs/{run}")).json()
    assert (shown["cancelling"], shown["cancel_reason"]) == (False, "user")


@pytest.mark.parametrize("wait", [False, True])
async def test_rolled_back_run_is_not_found(pair: Pair, thread: str, wait: bool) -> None:
    local, remote = pair
    await local.sdk.runs.wait(thread, "agent", input=demo(tag="before"))
    run = await start_running(local.sdk, thread, sleep=0.05, steps=1000, tag="a")

    async def has_worked() -> bool:
        return "a:1" in await log_of(remote.sdk, thread)

    await wait_until(has_worked, description="the run has done a step")
    values: Any = await remote.sdk.runs.cancel(thread, run, wait=wait, action="rollback")
    await until_gone(remote.raw, f"/threads/{thread}/runs/{run}")
    assert not wait or values["log"] == ["before:1"]
    assert await log_of(remote.sdk, thread) == ["before:1"]
    assert [r["run_id"] for r in await remote.sdk.runs.list(thread)].count(run) == 0
    assert await thread_status(remote.sdk, thread) == "idle"
    for path in ("", "/join", "/stream"):
        assert (await local.raw.get(f"/threads/{thread}/runs/{run}{path}")).status_code == 404
    assert (await local.raw.post(f"/threads/{thread}/runs/{run}/cancel")).status_code == 404


@pytest.mark.parametrize("action", ["interrupt", "rollback"])
async def test_cancelled_queued_run_never_starts(pair: Pair, thread: str, action: Any) -> None:
    local, remote = pair
    first = await start_running(local.sdk, thread, sleep=0.1, steps=5, tag="a")
    second = (await local.sdk.runs.create(thread, "agent", input=demo(tag="b")))["run_id"]
    await remote.sdk.runs.cancel(thread, second, action=action, wait=True)
    assert await thread_status(remote.sdk, thread) == "busy"  # the first run still runs
    await remote.sdk.runs.join(thread, first)
    assert await log_of(remote.sdk, thread) == [f"a:{i}" for i in range(1, 6)]
    listed = [(r["run_id"], r["status"]) for r in await remote.sdk.runs.list(thread)]
    kept = [(second, "interrupted")] if action == "interrupt" else []
    assert listed == [*kept, (first, "success")]


async def test_cancel_is_idempotent(pair: Pair, thread: str) -> None:
    local, remote = pair
    run = await start_running(local.sdk, thread, "slow_to_stop", tag="a")
    path = f"/threads/{thread}/runs/{run}/cancel"
    answers = await asyncio.gather(*(served.raw.post(path) for served in (local, remote) for _ in range(5)))
    assert {answer.status_code for answer in answers} == {202}
    await remote.sdk.runs.cancel(thread, run, wait=True)
    assert (await local.raw.post(path)).status_code == 202
    assert (await local.raw.post(path, params={"wait": "true"})).json() == {"log": ["a:begun"]}


@pytest.mark.parametrize("fail", [False, True])
async def test_cancel_of_an_ended_run_is_not_found(pair: Pair, thread: str, fail: bool) -> None:
    local, remote = pair
    run = (await local.sdk.runs.create(thread, "agent", input=demo(fail=fail)))["run_id"]
    await local.sdk.runs.join(thread, run)
    for wait in (0, 1):
        answer = await remote.raw.post(f"/threads/{thread}/runs/{run}/cancel", params={"wait": wait})
        assert answer.status_code == 404
    assert await status_of(remote.sdk, thread, run) == ("error" if fail else "success")


async def test_parameters_of_cancel_are_validated(pair: Pair, thread: str) -> None:
    local, remote = pair
    run = await start_running(local.sdk, thread, sleep=60)
    path = f"/threads/{thread}/runs/{run}/cancel"
    assert (await remote.raw.post(path, params={"action": "banana"})).status_code == 422
    assert (await remote.raw.post(path, params={"wait": "perhaps"})).status_code == 422
    assert (await remote.raw.post(f"/threads/{thread}/runs/{uuid4()}/cancel")).status_code == 404
    other = await new_thread(local.sdk)
    assert (await remote.raw.post(f"/threads/{other}/runs/{run}/cancel")).status_code == 404
    assert await status_of(remote.sdk, thread, run) == "running"


async def test_next_queued_run_starts_after_the_cancelled_one_has_stopped(plain: Pair) -> None:
    local, remote = plain
    thread = await new_thread(local.sdk)
    first = await start_running(local.sdk, thread, "slow_to_stop", tag="a")
    second = (await remote.sdk.runs.create(thread, "agent", input=demo(tag="b")))["run_id"]
    began = time.monotonic()
    await remote.sdk.runs.cancel(thread, first)
    await local.sdk.runs.join(thread, second)
    assert time.monotonic() - began >= UNWINDING
    assert await log_of(local.sdk, thread) == ["a:begun", "b:1"]


class TestMany:
    async def test_cancel_many_by_run_ids(self, pair: Pair, thread: str) -> None:
        local, remote = pair
        first = await start_running(local.sdk, thread, sleep=60)
        waiting = [(await local.sdk.runs.create(thread, "agent", input=demo()))["run_id"] for _ in range(3)]
        await remote.sdk.runs.cancel_many(thread_id=thread, run_ids=[first, waiting[0], str(uuid4())])
        await until_status(remote.sdk, thread, first, "interrupted")
        assert await status_of(remote.sdk, thread, waiting[0]) == "interrupted"
        await until_status(remote.sdk, thread, waiting[2], "success")

    async def test_cancel_many_by_status(self, pair: Pair, thread: str) -> None:
        local, remote = pair
        threads = [thread, await new_thread(local.sdk)]
        running = [await start_running(local.sdk, t, sleep=60) for t in threads]
        waiting = [(await local.sdk.runs.create(t, "agent", input=demo()))["run_id"] for t in threads]
        await remote.sdk.runs.cancel_many(status="pending")
        for t, run in zip(threads, waiting, strict=True):
            assert await status_of(remote.sdk, t, run) == "interrupted"
        for t, run in zip(threads, running, strict=True):
            assert await status_of(remote.sdk, t, run) == "running"
        await remote.sdk.runs.cancel_many(status="all", action="rollback")
        for t, run in zip(threads, running, strict=True):
            await until_gone(remote.raw, f"/threads/{t}/runs/{run}")

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
        local, remote = pair
        run = (await local.sdk.runs.create(thread, "agent", input=demo()))["run_id"]
        await local.sdk.runs.join(thread, run)
        body = {"thread_id": thread, "run_ids": [run]}
        assert (await remote.raw.post("/runs/cancel", json=body)).status_code == 404


class TestDelete:
    async def test_deleting_a_running_run_stops_it_first(self, pair: Pair, thread: str) -> None:
        local, remote = pair
        run = await start_running(local.sdk, thread, "slow_to_stop", tag="a")
        await remote.sdk.runs.delete(thread, run)
        assert (await local.raw.get(f"/threads/{thread}/runs/{run}")).status_code == 404
        assert await thread_status(local.sdk, thread) == "idle"
        await local.sdk.runs.wait(thread, "agent", input=demo(), multitask_strategy="reject")

    async def test_deleting_a_queued_run_removes_it(self, pair: Pair, thread: str, tmp_path: Path) -> None:
        local, remote = pair
        first = await start_running(local.sdk, thread, "gated", until=str(tmp_path / "go"))
        second = (await local.sdk.runs.create(thread, "agent", input=demo(tag="b")))["run_id"]
        await remote.sdk.runs.delete(thread, second)
        assert (await local.raw.get(f"/threads/{thread}/runs/{second}")).status_code == 404
        (tmp_path / "go").touch()
        await local.sdk.runs.join(thread, first)
        assert await log_of(remote.sdk, thread) == ["run:through"]

    async def test_deleting_a_thread_stops_all_its_runs(self, pair: Pair, thread: str) -> None:
        local, remote = pair
        runs = [await start_running(local.sdk, thread, "slow_to_stop")]
        runs += [(await local.sdk.runs.create(thread, "agent", input=demo()))["run_id"] for _ in range(3)]
        await remote.sdk.threads.delete(thread)
        for served in (local, remote):
            assert (await served.raw.get(f"/threads/{thread}")).status_code == 404
            for run in runs:
                assert (await served.raw.get(f"/threads/{thread}/runs/{run}")).status_code == 404
        assert (await local.raw.delete(f"/threads/{thread}")).status_code == 404


async def test_cancel_before_the_stream_opens_takes_effect(pair: Pair, thread: str) -> None:
    local, remote = pair
    async with local.raw.stream(
        "POST", f"/threads/{thread}/runs/stream", json={"assistant_id": "agent", "input": demo(sleep=60)}
    ) as streamed:
        path = streamed.headers["content-location"]
        assert (await remote.raw.post(f"{path}/cancel")).status_code == 202
        body = b"".join([chunk async for chunk in streamed.aiter_raw()])
    assert b"event: metadata" in body
    assert b"event: error" not in body
    assert (await remote.raw.get(path)).json()["status"] == "interrupted"


async def test_sdk_raises_errors_for_refused_cancels(pair: Pair, thread: str) -> None:
    with pytest.raises(httpx.HTTPStatusError):
        await pair[1].sdk.runs.cancel(thread, str(uuid4()), wait=True)
