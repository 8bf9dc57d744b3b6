"""Joining a run returns the result of that run, and not the state of the thread."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

import pytest

from tests.gateway.conftest import WITH_GRAPHS, Pair, pair_of
from tests.support.gateway_agents import GATES
from tests.support.gateways import Served, all_closed, demo, new_thread, start_running, until_status
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_exception_is_logged")
pair = pytest.fixture(pair_of, name="pair", params=WITH_GRAPHS)


async def test_join_returns_the_result_of_its_own_run(pair: Pair, thread: str) -> None:
    local, remote = pair
    runs = [
        (await local.sdk.runs.create(thread, "agent", input=demo(tag=tag, fail=tag == "c")))["run_id"]
        for tag in "abcd"
    ]
    last = await remote.sdk.runs.join(thread, runs[-1])
    assert last["log"] == ["a:1", "b:1", "d:1"]
    for _ in range(2):
        assert (await remote.sdk.runs.join(thread, runs[0]))["log"] == ["a:1"]
        assert (await local.sdk.runs.join(thread, runs[1]))["log"] == ["a:1", "b:1"]
        assert (await remote.sdk.runs.join(thread, runs[2]))["__error__"] == {
            "error": "ValueError",
            "message": "demo failure requested",
        }


async def test_many_clients_join_one_run(pair: Pair, thread: str) -> None:
    local, remote = pair
    run = (await local.sdk.runs.create(thread, "gated", input={"gate": thread}))["run_id"]
    waiting = [
        asyncio.create_task(served.sdk.runs.join(thread, run))
        for _ in range(10)
        for served in (local, remote)
    ]
    await until_status(remote.sdk, thread, run, "running")
    GATES[thread].set()
    assert await asyncio.gather(*waiting) == [{"log": ["run:through"]}] * 20


async def test_client_that_created_the_run_decides_although_others_follow_it(pair: Pair, thread: str) -> None:
    local, remote = pair
    run_input = {"assistant_id": "gated", "input": {"gate": thread}, "on_disconnect": "cancel"}
    async with AsyncExitStack() as joined:
        async with local.raw.stream("POST", f"/threads/{thread}/runs/stream", json=run_input) as response:
            path = response.headers["content-location"]
            run = path.rsplit("/", 1)[1]
            await until_status(remote.sdk, thread, run, "running")
            await joined.enter_async_context(remote.raw.stream("GET", f"{path}/stream"))
        await until_status(remote.sdk, thread, run, "interrupted")
    assert (await remote.raw.get(path)).json()["cancel_reason"] == "its client has disconnected"


async def test_headers_are_sent_at_once_and_white_space_until_the_end(pair: Pair, thread: str) -> None:
    local, remote = pair
    request_body = {"assistant_id": "gated", "input": {"gate": thread}}
    async with local.raw.stream("POST", f"/threads/{thread}/runs/wait", json=request_body) as response:
        path = response.headers["content-location"]
        assert response.headers["location"] == f"{path}/join"
        assert response.headers["content-type"] == "application/json"
        async with remote.raw.stream("GET", f"{path}/join") as joined:
            assert joined.headers["location"] == f"{path}/join"
            assert joined.headers["content-location"] == path
            bodies = [response.aiter_raw(), joined.aiter_raw()]
            for body in bodies:
                assert [await anext(body) for _ in range(2)] == [b"\n", b"\n"]
            GATES.setdefault(thread, asyncio.Event()).set()
            for body in bodies:
                rest = b"".join([chunk async for chunk in body])
                assert json.loads(rest) == {"log": ["run:through"]}


async def test_join_of_an_interrupted_run_returns_the_threads_values(pair: Pair, thread: str) -> None:
    local, remote = pair
    run = await start_running(local.sdk, thread, "slow_to_stop", tag="a")
    waiting = asyncio.create_task(remote.sdk.runs.join(thread, run))
    await remote.sdk.runs.cancel(thread, run)
    assert await waiting == {"log": ["a:begun"]}


async def test_join_of_a_rolled_back_run_returns_the_restored_values(pair: Pair, thread: str) -> None:
    local, remote = pair
    await local.sdk.runs.wait(thread, "agent", input=demo(tag="kept"))
    run = await start_running(local.sdk, thread, "slow_to_stop", tag="a")
    waiting = asyncio.create_task(remote.sdk.runs.join(thread, run))
    await wait_until(lambda: remote.gateway.state.services.watchers.open, description="the client has joined")
    await remote.sdk.runs.cancel(thread, run, action="rollback")
    assert (await waiting)["log"] == ["kept:1"]


async def test_paused_run_is_a_success_and_its_thread_interrupted(pair: Pair, thread: str) -> None:
    local, remote = pair
    request_body = await local.sdk.runs.wait(thread, "asker")
    question = {"value": "really?", "id": "q1"}
    assert request_body == {"waits_for_answer": True, "__interrupt__": [question]}
    (run,) = await remote.sdk.runs.list(thread)
    assert run["status"] == "success"
    assert await remote.sdk.runs.join(thread, run["run_id"]) == request_body
    shown = await remote.sdk.threads.get(thread)
    assert shown["status"] == "interrupted"
    assert [one for listed in shown["interrupts"].values() for one in listed] == [question]
    state = await remote.sdk.threads.get_state(thread)
    assert (state["next"], state["interrupts"]) == (["asker"], [question])
    assert await local.sdk.runs.wait(thread, "asker", command={"resume": "yes"}) == {"answer": "yes"}
    shown = await remote.sdk.threads.get(thread)
    assert (shown["status"], shown["interrupts"]) == ("idle", {})


async def test_result_may_be_any_json_value(one: Served) -> None:
    thread = await new_thread(one.sdk)
    assert await one.sdk.runs.wait(thread, "words") == "just text"
    assert await one.sdk.runs.wait(thread, "surrogates") == {"text": "? half"}


@pytest.mark.parametrize("raise_error", [True, False])
async def test_sdk_raises_the_error_of_the_run(one: Served, raise_error: bool) -> None:
    thread = await new_thread(one.sdk)
    if raise_error:
        with pytest.raises(Exception, match="ValueError: demo failure requested"):
            await one.sdk.runs.wait(thread, "agent", input=demo(fail=True))
    else:
        answer = await one.sdk.runs.wait(thread, "agent", input=demo(fail=True), raise_error=False)
        assert answer["__error__"]["error"] == "ValueError"


async def test_an_unknown_run_is_not_found(one: Served) -> None:
    thread = await new_thread(one.sdk)
    for path in (f"/threads/{thread}/runs/{uuid4()}/join", f"/runs/{uuid4()}/join"):
        assert (await one.raw.get(path)).status_code == 404


async def test_deleting_the_run_ends_a_join(pair: Pair, thread: str) -> None:
    local, remote = pair
    run = await start_running(local.sdk, thread, "slow_to_stop", tag="a")
    waiting = asyncio.create_task(remote.sdk.runs.join(thread, run))
    await local.sdk.threads.delete(thread)
    answer: Any = await waiting
    assert answer in ({}, {"log": ["a:begun"]})
    await all_closed(remote)
