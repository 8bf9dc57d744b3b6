"""`coordinator workers drain` of one of the workers of a server: the others answer."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from tests.support.command_line import DONE, cli
from tests.support.served import Served, served
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.multiprocess,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers share a socket"),
]

RUN: dict[str, object] = {"assistant_id": "agent", "input": {}}
NO_REDIS = ("--redis", "")


async def run_on(client: httpx.AsyncClient) -> int:
    return (await client.post("/runs/wait", json=RUN)).status_code


async def run_on_kept(client: httpx.AsyncClient) -> int:
    """The drained worker closes kept connections half a second later. On a busy machine a request may meet
    that close, as with any server; the client repeats it on a new connection."""
    try:
        return await run_on(client)
    except httpx.ReadError:
        return await run_on(client)


async def runs_on_new_connections(server: Served, count: int) -> set[int]:
    statuses = set[int]()
    for _ in range(count):
        async with httpx.AsyncClient(base_url=server.url, timeout=20) as client:
            statuses.add(await run_on(client))
    return statuses


@pytest.mark.parametrize("how", ["by the command", "over HTTP, at the worker itself"])
async def test_no_request_reaches_a_worker_that_was_drained(tmp_path: Path, how: str) -> None:
    async with (
        served("serve", "--workers", "2", *NO_REDIS, folder=tmp_path) as two,
        AsyncExitStack() as stack,
    ):
        url = await two.up()
        clients = [
            await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=20)) for _ in range(12)
        ]
        assert {(await client.get("/ok")).status_code for client in clients} == {200}
        done = asyncio.Event()

        async def until_done() -> set[int]:
            statuses = set[int]()
            while not done.is_set():
                statuses |= await runs_on_new_connections(two, 1)
            return statuses

        meanwhile = asyncio.create_task(until_done())
        if how == "by the command":
            assert (await cli("workers", "drain", "1", cwd=tmp_path)).code == DONE
        else:
            assert (await clients[0].post("/coordinator/drain", json={})).status_code == 202
        await two.wait_for_line("drains at the request of ")
        assert {*await asyncio.gather(*map(run_on_kept, clients))} == {200}
        assert await runs_on_new_connections(two, 20) == {200}
        done.set()
        assert await meanwhile == {200}


async def test_last_worker_that_was_drained_answers(tmp_path: Path) -> None:
    async with served("serve", "--workers", "2", *NO_REDIS, folder=tmp_path) as two:
        await two.up()
        assert (await cli("workers", "drain", "--all", "--yes", cwd=tmp_path)).code == DONE
        await two.wait_for_line("drains at the request of another process", times=2)

        async def refused() -> bool:
            try:
                return await runs_on_new_connections(two, 1) == {503}
            except httpx.ConnectError:
                return False

        await wait_until(refused, description="a drained worker listens again")
