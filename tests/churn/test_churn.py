"""The short form: a few seconds of churn leave no state behind. `make churn` is the long form."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from coordinator import RunManager
from coordinator.notifier import Connectivity
from coordinator.servers.valkey import ValkeyServer
from tests.churn.workload import churning
from tests.support.builders import worker_row
from tests.support.inside import assembly_of, bookkeeping_of, threads_in
from tests.support.teams import keys_without_ttl
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(240)  # tests of many steps

RUNNING, STEPS, KEPT = 40, 400, 50
EVENT_LINK = 4
"""Tasks: two of the event log's own connection, which opens with the first event, and one of each of the two
other connections, which checks the address of Redis and starts shortly after the connection is open."""


async def connected(manager: RunManager) -> None:
    """Returns once each connection of the store has its files open. SQLite opens them at first use: a
    heartbeat opens those of the heartbeat's connection, a read of one row those of the event loop's."""

    async def heartbeat_written() -> bool:
        return (await worker_row(assembly_of(manager).shared.store, manager.worker.epoch)).hb_seq > 0

    await wait_until(heartbeat_written, description="the first heartbeat")
    assert await assembly_of(manager).shared.store.standing("unknown") is None


async def test_churn_leaves_no_state_and_no_growth(
    tmp_path: Path, own_valkey: ValkeyServer, namespace: str, no_task_left: None
) -> None:
    """Reported failure 30. Counts tasks, files, connections and the maps of the registry exactly."""
    files = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - one call, so that its own descriptor counts once
    kept = {"keep_finished_max": KEPT, "sqlite_synchronous": "NORMAL", "renew": 0.1}
    async with churning(tmp_path, own_valkey, namespace=namespace, running=RUNNING, **kept) as churn:
        await wait_until(
            lambda: churn.manager.worker.connectivity is Connectivity.connected,
            description="Redis is connected",
        )
        idle = await churn.held()
        await churn.fill()
        for _ in range(STEPS // 4):
            await churn.step()
        await connected(churn.manager)
        early = await churn.held()
        for _ in range(STEPS):
            await churn.step()
        late = await churn.held()
        assert late.ended > early.ended + STEPS // 2
        assert (late.files, late.redis_connections) == (early.files, early.redis_connections)
        assert late.unsettled == early.unsettled == RUNNING
        assert max(early.runs_in_memory, late.runs_in_memory) <= KEPT + RUNNING + 1
        assert abs(late.tasks - early.tasks) <= 3, "a wait or a job may be ending at this moment"
        await churn.finish()

        async def settled() -> bool:
            now = await churn.held()
            return now.tasks <= idle.tasks + EVENT_LINK and not any(now.waiting.values())

        await wait_until(settled, description="all work in progress has ended")
        rest = await churn.held()
        assert (rest.unsettled, rest.files) == (0, early.files)
        assert not any(map(len, bookkeeping_of(churn.manager).values()))
        assert threads_in(churn.manager) <= KEPT + 1
    assert not keys_without_ttl(own_valkey, namespace)
    assert len(os.listdir("/proc/self/fd")) == files  # noqa: PTH208 - as above
