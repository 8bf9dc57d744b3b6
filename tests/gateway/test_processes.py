"""Gateways as processes: clients continue when one of them is killed, drains, or relays a run of another."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph_sdk import get_client

from coordinator.servers.valkey import ValkeyServer
from tests.support.gateway_processes import Balancer, GatewayProcess, gateway_processes
from tests.support.gateways import demo, until_status
from tests.support.sse import events

Sdks = Callable[[str], Any]

pytestmark = pytest.mark.multiprocess

TIMES = 60
TALK = {"times": TIMES, "sleep": 0.05}
"""A run of more than 3 s, with an event of every kind every 0.05 s."""


@pytest.fixture
async def three(
    tmp_path: Path, shared_valkey: ValkeyServer, namespace: str
) -> AsyncGenerator[list[GatewayProcess]]:
    async with gateway_processes(3, tmp_path, shared_valkey.url, namespace) as team:
        yield team


@pytest.fixture
async def sdk_of() -> AsyncGenerator[Callable[[str], Any]]:
    made: list[Any] = []

    def client(url: str) -> Any:
        made.append(get_client(url=url, api_key=None))
        return made[-1]

    yield client
    for one in made:
        await one.aclose()


@pytest.mark.parametrize("how", ["killed", "left"])
async def test_stream_continues_at_another_gateway_without_a_gap(
    three: list[GatewayProcess], sdk_of: Sdks, how: str
) -> None:
    """The third gateway executes the run; the client streams from the first, then from the second."""
    first, second, third = three
    of_owner = sdk_of(third.url)
    thread = (await of_owner.threads.create())["thread_id"]
    run = await of_owner.runs.create(
        thread, "talker", input=TALK, stream_mode=["custom"], stream_resumable=True
    )
    seen: list[int] = []
    async with Balancer(first.port, second.port) as front:
        watching = sdk_of(front.url).runs.join_stream(
            thread, run["run_id"], last_event_id="-1", cancel_on_disconnect=how == "left"
        )
        async for part in watching:
            if part.event == "custom":
                seen.append(part.data["number"])
                if len(seen) == 5:
                    await (first.kill() if how == "killed" else first.leave())
        assert set(front.taken) == {first.port, second.port}
    assert seen == list(range(TIMES))
    assert (await of_owner.runs.get(thread, run["run_id"]))["status"] == "success"


async def test_stream_whose_connection_is_cut_resumes_from_its_location(
    three: list[GatewayProcess], sdk_of: Sdks
) -> None:
    """The stream resumes at any gateway without duplicates."""
    first, second, _ = three
    async with Balancer(first.port) as front:
        client = sdk_of(front.url)
        thread = (await client.threads.create())["thread_id"]
        parts: list[Any] = []
        async for part in client.runs.stream(
            thread, "talker", input=TALK, stream_mode="custom", stream_resumable=True
        ):
            parts.append(part)
            if len(parts) == 5:
                front.ports = [second.port]
                for pumping in list(front.pumping):
                    pumping.cancel()
    assert [part.event for part in parts] == ["metadata"] + ["custom"] * TIMES
    assert [part.data["number"] for part in parts[1:]] == list(range(TIMES))
    assert len({part.id for part in parts}) == len(parts)


@pytest.mark.filterwarnings("ignore:Request failed, attempting reconnect")
async def test_join_continues_at_another_gateway_when_its_gateway_drains(
    three: list[GatewayProcess], sdk_of: Sdks
) -> None:
    first, second, third = three
    of_owner = sdk_of(third.url)
    thread = (await of_owner.threads.create())["thread_id"]
    run = (await of_owner.runs.create(thread, "agent", input=demo(sleep=0.1, steps=20)))["run_id"]
    await until_status(of_owner, thread, run, "running")
    async with Balancer(first.port, second.port) as front:
        waiting = asyncio.create_task(sdk_of(front.url).runs.join(thread, run))
        await front.answered.wait()
        await first.leave()
        assert (await waiting)["done"] == 20
        assert set(front.taken) == {first.port, second.port}


async def test_stream_and_join_end_when_the_worker_of_the_run_is_killed(
    three: list[GatewayProcess], sdk_of: Sdks
) -> None:
    first, second, _ = three
    home, elsewhere = sdk_of(first.url), sdk_of(second.url)
    thread = (await home.threads.create())["thread_id"]
    run = (await home.runs.create(thread, "agent", input=demo(sleep=0.05, steps=10_000)))["run_id"]
    await until_status(elsewhere, thread, run, "running")
    path = f"{second.url}/threads/{thread}/runs/{run}"
    async with httpx.AsyncClient(timeout=30) as raw, raw.stream("GET", f"{path}/stream") as response:
        waiting = asyncio.create_task(raw.get(f"{path}/join"))
        events = [event async for event in _killing(first, response)]
        answer = json.loads((await waiting).content)
    assert events[-1].event == "error"
    assert answer["__error__"] == events[-1].data
    assert (await elsewhere.runs.get(thread, run))["status"] == "error"
    after: Any = await elsewhere.runs.wait(thread, "agent", input=demo(tag="next"))
    assert after["log"][-1] == "next:1"


async def _killing(gateway: GatewayProcess, response: httpx.Response) -> AsyncGenerator[Any]:
    """Yields the events of a stream and kills its gateway at the first one."""
    killed = False
    async for event in events(response):
        yield event
        if not killed:
            killed = True
            await gateway.kill()
