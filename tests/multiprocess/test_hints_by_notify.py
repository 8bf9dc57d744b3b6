"""Workers that share a PostgreSQL and no Redis: their hints travel by NOTIFY."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from statistics import median
from typing import Any

import pytest

from stores.postgres.channels import APPLICATION
from tests.support.postgres import Database
from tests.support.processes import Fleet, fleet_on_postgres, is_connected
from tests.support.waiting import wait_until

pytestmark = pytest.mark.multiprocess

NO_TICK: dict[str, Any] = {"tick": 600.0, "short_tick": 600.0}
"""(s) No worker reads the decisions of another one at its tick."""


@pytest.fixture
async def deaf_without_hints(shared_postgres: Database, namespace: str) -> AsyncGenerator[Fleet]:
    async with fleet_on_postgres(shared_postgres, namespace=namespace, **NO_TICK) as made:
        yield made


async def test_a_cancel_travels_by_notify_alone(deaf_without_hints: Fleet) -> None:
    owner, other = await deaf_without_hints.of(2)
    took: list[float] = []
    for number in range(20):
        run = await owner.do("admit", thread=f"t{number}")
        await owner.wait_for("started", run)
        called = asyncio.get_running_loop().time()
        await other.do("cancel", run=run)
        took.append((await owner.wait_for("cancelled", run))["at"] - called)
    # The bound includes the pipe that carries the call, and a machine that is busy with other tests.
    assert median(took) < 0.05, took


async def test_waiter_on_another_worker_is_notified_of_the_end(deaf_without_hints: Fleet) -> None:
    owner, other = await deaf_without_hints.of(2)
    run = await owner.do("admit", thread="t", returns="done")
    await owner.wait_for("started", run)
    waiting = asyncio.create_task(other.do("wait", run=run))
    line = await other.do("admit", thread="t", strategy="enqueue")
    await owner.do("end", run=run)
    assert await waiting == "done"
    await other.wait_for("started", line)


async def test_terminated_listening_connection_is_replaced(
    deaf_without_hints: Fleet, shared_postgres: Database
) -> None:
    owner, other = await deaf_without_hints.of(2)
    run = await owner.do("admit", thread="t")
    await owner.wait_for("started", run)
    async with shared_postgres.connection() as cx:
        ended = await cx.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = $1"
            " AND usename = (SELECT usename FROM pg_stat_activity WHERE application_name = $1"
            " ORDER BY backend_start DESC LIMIT 1)",
            APPLICATION,
        )
    assert ended >= 2, "those of workers that were killed before may not have ended yet"
    await other.do("cancel", run=run)
    await owner.wait_for("cancelled", run)
    for worker in (owner, other):
        await wait_until(lambda worker=worker: is_connected(worker), description="it is subscribed again")
