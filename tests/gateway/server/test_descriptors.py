"""A worker whose clients or runs need more descriptors than the limit allows."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from coordinator.gateway.server import descriptors
from tests.support.raw import connected
from tests.support.served import Served, served
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]

FEW = 256
CROWD = 600
QUICK: Any = {"COORDINATOR_RENEW": "2", "COORDINATOR_LEASE_TTL": "6", "COORDINATOR_LEASE_MARGIN": "1"}

AGENTS = """
import asyncio, os

async def greedy(ctx):
    "Opens every free descriptor, for longer than the TTL of a lease."
    taken = []
    try:
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass
    await asyncio.sleep(8)  # the test is that the lease is renewed meanwhile
    for one in taken:
        os.close(one)
    return {"taken": len(taken)}

assistants = {"greedy": greedy}
"""


def open_in(pid: int) -> int:
    return len([*Path(f"/proc/{pid}/fd").iterdir()])


def limits_of(pid: int) -> list[str]:
    """Returns the soft and the hard limit."""
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    (line,) = [one for one in lines if "open files" in one]
    return line.split()[3:5]


def beats(server: Served, before: dict[int, int]) -> bool:
    """Returns whether no worker was fenced or restarted and no heartbeat failed."""
    return (
        server.epochs == before
        and "could not renew its lease" not in server.output
        and "fenced" not in server.output
    )


def test_connections_leave_a_reserve_of_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, reserved in ((256, 64), (1024, 256), (65_536, 4096)):
        monkeypatch.setattr(descriptors, "soft_limit", lambda limit=limit: limit)
        room = descriptors.room_for_connections()
        assert limit - reserved - 100 < room <= limit - reserved
    monkeypatch.setattr(descriptors, "soft_limit", lambda: 64)
    assert descriptors.room_for_connections() > 0


async def test_worker_raises_its_soft_limit(tmp_path: Path) -> None:
    async with served("serve", "--store", "memory://", folder=tmp_path, descriptors=(FEW, 700)) as server:
        await server.up()
        assert limits_of(server.workers[1]) == ["700", "700"]


async def test_more_connections_than_descriptors_affect_no_run_and_no_heartbeat(tmp_path: Path) -> None:
    begun = (
        b"",
        b"GET /ok HTTP/1.1\r\nHost: localhost\r\n",
        b"GET /ok HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n",
        b"GET /ok HTTP/1.1\r\nHost: localhost\r\n\r\n",
    )
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            served("serve", folder=tmp_path, descriptors=(FEW, FEW), **QUICK)
        )
        url = await server.up()
        epochs, worker = server.epochs, server.workers[1]
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=60))
        assert (await client.get("/ok")).status_code == 200
        before = open_in(worker)
        run: Any = {"assistant_id": "agent", "input": {"steps": 20, "sleep": 0.2}}
        waiting = asyncio.create_task(client.post("/runs/wait", json=run))
        async with AsyncExitStack() as crowd:
            for number in range(CROWD):
                raw = await crowd.enter_async_context(connected(server.port))
                await raw.send(begun[number % len(begun)])
                assert open_in(worker) < FEW - 16
            async with httpx.AsyncClient(base_url=url, timeout=10) as late:
                assert (await late.get("/ok")).status_code == 200
                assert (await late.post("/threads", json={})).status_code == 200
            ended = await waiting
            assert (ended.status_code, ended.json()["done"]) == (200, 20)
            assert beats(server, epochs)
        await wait_until(
            lambda: open_in(worker) <= before + 2, description="the descriptors of the worker are free again"
        )
        assert "have waited longest for their client are closed" in server.output


async def test_run_that_uses_every_descriptor_stops_no_heartbeat(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(AGENTS)
    async with (
        served(
            "serve", "--assistants", "mine:assistants", folder=tmp_path, descriptors=(FEW, FEW), **QUICK
        ) as server,
        httpx.AsyncClient(timeout=60) as client,
    ):
        url = await server.up()
        epochs = server.epochs
        ended = await client.post(f"{url}/runs/wait", json={"assistant_id": "greedy", "input": {}})
        assert ended.json()["taken"] > 50
        assert beats(server, epochs)
        async with httpx.AsyncClient(timeout=10) as late:
            assert (await late.get(f"{url}/ok")).status_code == 200
