"""A worker whose event loop is blocked serves no requests: meanwhile `/metrics` of another worker reports
it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.served import served
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]

AGENTS = """
import os, time
from pathlib import Path

async def blocks(ctx):
    "As code does that waits without giving the event loop back; at most for 60 s."
    Path("stands").write_text(str(os.getpid()))
    until = time.monotonic() + 60
    while not Path("go on").exists() and time.monotonic() < until:
        time.sleep(0.02)

assistants = {"blocks": blocks}
"""


async def of_workers(url: str, name: str) -> dict[int, float]:
    """Returns a gauge of each worker by process id; {} if the connected worker does not respond."""
    try:
        async with httpx.AsyncClient(timeout=1) as client:  # a connection of its own: any worker may take it
            text = (await client.get(f"{url}/metrics")).text
    except httpx.TransportError:
        return {}
    return {
        int(sample.labels["pid"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == f"coordinator_worker_{name}"
    }


async def test_metrics_of_another_worker_show_a_blocked_event_loop_and_its_recovery(
    tmp_path: Path,
) -> None:
    (tmp_path / "mine.py").write_text(AGENTS)
    stands, go_on = tmp_path / "stands", tmp_path / "go on"
    arguments = ("serve", "--workers", "2", "--grace", "1", "--assistants", "mine:assistants")
    async with served(*arguments, folder=tmp_path) as server, httpx.AsyncClient(timeout=60) as client:
        url = await server.up()
        request = asyncio.create_task(
            client.post(f"{url}/runs", json={"assistant_id": "blocks", "input": {}})
        )
        await wait_until(lambda: stands.exists() and stands.read_text(), description="the loop is blocked")
        blocked = int(stands.read_text())
        (other,) = set(server.workers.values()) - {blocked}

        async def seen() -> bool:
            stalled = await of_workers(url, "loop_stalled_seconds")
            return stalled.get(blocked, 0) >= 2 and stalled[other] == 0

        await wait_until(seen, description="the other worker reports the blocked loop")
        ready = {}
        while not ready:
            ready = await of_workers(url, "ready")
        assert (ready[blocked], ready[other]) == (0, 1)
        assert not go_on.exists()

        go_on.touch()
        assert (await request).status_code == 200

        async def over() -> bool:
            return (await of_workers(url, "loop_stalled_seconds")).get(blocked) == 0

        await wait_until(over, description="the loop runs again")
