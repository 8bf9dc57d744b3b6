"""A worker whose clients, or whose runs, want more descriptors than there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.served import Served, served

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]

FEW = 256
QUICK: Any = {"COORDINATOR_RENEW": "2", "COORDINATOR_LEASE_TTL": "6", "COORDINATOR_LEASE_MARGIN": "1"}

AGENTS = """
import asyncio, os

async def greedy(ctx):
    "Takes every descriptor that is left, for longer than a lease lasts."
    taken = []
    try:
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass
    await asyncio.sleep(8)
    for one in taken:
        os.close(one)
    return {"taken": len(taken)}

assistants = {"greedy": greedy}
"""


def beats(server: Served, before: dict[int, int]) -> bool:
    """No worker was fenced or replaced, and no heartbeat failed."""
    return (
        server.epochs == before and "could not be renewed" not in server.said and "fenced" not in server.said
    )


async def test_run_that_takes_every_descriptor_stops_no_heartbeat(tmp_path: Path) -> None:
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
