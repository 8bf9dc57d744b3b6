"""`POST /threads` with an initial state is atomic and never changes existing threads."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from coordinator.gateway import thread_creation
from coordinator.gateway.caller import UNAUTHENTICATED
from coordinator.gateway.wire.threads import ThreadCreate
from tests.gateway.conftest import Pair
from tests.support.gateways import Served, demo, new_thread, start_running, status_of
from tests.support.waiting import wait_until

REFUSED: dict[str, Any] = {"values": {}, "as_node": "nowhere"}


def steps(*updates: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"updates": [update]} for update in updates]


def counting(count: int) -> list[dict[str, Any]]:
    return steps(*({"values": {str(n): n}, "as_node": "__start__"} for n in range(count)))


async def create(served: Served, thread: str, supersteps: Any, if_exists: str = "do_nothing") -> Any:
    body = {"thread_id": thread, "if_exists": if_exists, "supersteps": supersteps}
    return await served.raw.post("/threads", json=body)


async def test_repeated_creation_does_not_change_the_thread(plain: Pair) -> None:
    local, remote = plain
    thread = await new_thread(local.sdk)
    await local.sdk.threads.update_state(thread, {"a": 1})
    run = await start_running(local.sdk, thread, sleep=60)
    for supersteps in (counting(2), steps(REFUSED)):
        answer = await create(remote, thread, supersteps)
        assert answer.status_code == 200, answer.text
        assert answer.json()["values"] == {"a": 1}
    assert await status_of(remote.sdk, thread, run) == "running"
    assert (await create(remote, thread, counting(2), "raise")).status_code == 409


async def test_refused_initial_state_removes_the_created_thread(one: Served) -> None:
    thread = str(uuid4())
    answer = await create(one, thread, [*counting(2), *steps(REFUSED)])
    assert answer.status_code == 422, answer.text
    assert (await one.raw.get(f"/threads/{thread}")).status_code == 404
    assert (await create(one, thread, counting(2))).json()["values"] == {"0": 0, "1": 1}


async def test_refused_initial_state_keeps_a_concurrent_run(two: Pair) -> None:
    """The run is queued behind the creation."""
    local, remote = two
    thread = str(uuid4())
    creating = asyncio.create_task(create(local, thread, [*counting(200), *steps(REFUSED)]))

    await wait_until(lambda: remote.manager.has_inflight(thread), description="the creation holds the thread")
    run = (await remote.sdk.runs.create(thread, "agent", input=demo(tag="b")))["run_id"]
    assert not creating.done()
    assert (await creating).status_code == 422
    await remote.sdk.runs.join(thread, run)
    assert await status_of(remote.sdk, thread, run) == "success"


async def test_disconnect_does_not_interrupt_the_creation(two: Pair) -> None:
    one = two[0]
    thread = str(uuid4())
    body = ThreadCreate(thread_id=thread, supersteps=counting(50))  # pyright: ignore[reportArgumentType] - an iterator, to see how much of it is read
    services = one.gateway.state.services
    request = asyncio.create_task(thread_creation.create(services, UNAUTHENTICATED, body))
    await wait_until(lambda: one.manager.store.thread(thread), description="the thread is created")
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    row = await one.manager.threads.get(thread)
    assert row.values == {str(n): n for n in range(50)}


async def test_repeated_creation_completes_an_empty_thread(one: Served) -> None:
    """A worker may die between creating the thread and its state."""
    thread = (await one.manager.threads.create()).thread_id
    assert (await create(one, thread, steps(REFUSED))).status_code == 422
    assert (await one.raw.get(f"/threads/{thread}")).status_code == 200, "the thread exists already"
    thread = (await one.manager.threads.create()).thread_id
    assert (await create(one, thread, counting(2))).json()["values"] == {"0": 0, "1": 1}
