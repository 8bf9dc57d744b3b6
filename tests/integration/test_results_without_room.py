"""A nearly full disk has no room for the result of one run: the other runs of the worker end at once, and
that one ends as an error. On real file systems, which needs root."""

from __future__ import annotations

import os
import secrets
import subprocess
import tempfile
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from coordinator import RunManager
from coordinator.errors import RunFailed
from coordinator.servers.postgres import PostgresServer
from tests.support.agents import Agent, quick, running
from tests.support.inside import user_of
from tests.support.postgres import Database
from tests.support.teams import team_of
from tests.support.waiting import wait_until

BIG = 12_000_000  # bytes; the disk has less


@contextmanager
def small_disk() -> Generator[Path]:
    with tempfile.TemporaryDirectory(prefix="rc-disk-") as name:
        mount = ["mount", "-t", "tmpfs", "-o", "size=8m,mode=711", "tmpfs", name]
        try:
            mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
        except FileNotFoundError:
            mounted = False
        if not mounted:
            pytest.skip("a small tmpfs cannot be mounted here: that needs root")
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", "--lazy", name], check=True)


@asynccontextmanager
async def on_sqlite() -> AsyncGenerator[RunManager]:
    with small_disk() as folder:
        async with team_of(1, folder, lease_ttl=60.0) as (manager,):
            yield manager


@asynccontextmanager
async def on_postgres() -> AsyncGenerator[RunManager]:
    """Its tables are on the small disk. Its log is not: a server without room for that ends."""
    with small_disk() as folder, PostgresServer(durable=False) as server:
        tables = folder / "tables"
        tables.mkdir(mode=0o700)
        if (user := user_of(server)) is not None:
            os.chown(tables, user, -1)
        await Database(server.url()).execute(
            f"CREATE TABLESPACE small LOCATION '{tables}'",
            "ALTER ROLE postgres SET default_tablespace = small",
        )
        async with team_of(1, folder, store=server.url(), lease_ttl=60.0) as (manager,):
            yield manager


@pytest.fixture(params=[on_sqlite, on_postgres])
async def manager(request: pytest.FixtureRequest) -> AsyncGenerator[RunManager]:
    async with request.param() as made:
        yield made


async def test_a_result_without_room_holds_up_no_other_run(
    manager: RunManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stores.outbox.GIVE_UP_AFTER", 0.0)
    big, agent = await running(manager, "big", Agent(returns={"text": secrets.token_hex(BIG // 2)}))
    before, other = await running(manager, "before", Agent(returns="before"))
    agent.may_end.set()
    await wait_until(
        lambda: manager.worker.pending_writes == 1, description="there is no room for the big result"
    )
    other.may_end.set()
    assert await manager.wait(before.run_id, timeout=20) == "before"
    admitted = await manager.create_or_reject("after")
    manager.launch(admitted, quick)
    await manager.wait(admitted.run_id, timeout=20)
    with pytest.raises(RunFailed, match=r"Its result could not be stored: .*disk is full"):
        await manager.wait(big.run_id, timeout=20)
    assert manager.worker.pending_writes == 0
    assert not await manager.has_inflight("big")
