"""A failover to a standby that lacks the last commits, as asynchronous replication allows."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NamedTuple

import pytest

from coordinator import RunManager, Settings, open_coordinator
from coordinator.servers.postgres import PostgresServer
from tests.integration.test_postgres_faults import has_all
from tests.support.agents import running
from tests.support.inside import assembly_of, beat_of
from tests.support.postgres import Database
from tests.support.teams import QUICK
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_task_left")

PATIENT: dict[str, Any] = {**QUICK, "renew": 0.3, "tick": 0.2, "lease_ttl": 60.0, "postgres_away": 20.0}


class Servers(NamedTuple):
    primary: PostgresServer
    standby: PostgresServer

    @property
    def url(self) -> str:
        hosts = ",".join(f"{server.host}:{server.port}" for server in self)
        return f"{self.primary.url().rpartition('@')[0]}@{hosts}/postgres"

    async def stop_following(self) -> None:
        """The standby has all that was committed before, and receives nothing more."""
        await wait_until(lambda: has_all(self.standby, self.primary), description="the standby has it all")
        standby = Database(self.standby.url())
        await standby.execute("ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()")

        async def alone() -> bool:
            async with standby.connection() as cx:
                return not await cx.fetchval("SELECT count(*) FROM pg_stat_wal_receiver")

        await wait_until(alone, description="it receives nothing any more")

    def fail_over(self) -> None:
        self.primary.stop("immediate")
        self.standby.promote()

    @asynccontextmanager
    async def worker(self) -> AsyncGenerator[RunManager]:
        async with open_coordinator(settings=Settings(store=self.url, **PATIENT)) as manager:
            yield manager


@contextmanager
def two_servers() -> Generator[Servers]:
    with PostgresServer(durable=False) as primary:
        standby = primary.standby()
        try:
            yield Servers(primary, standby)
        finally:
            standby.close()


async def test_task_whose_admission_was_lost_is_stopped_beside_its_heir() -> None:
    with two_servers() as servers:
        async with servers.worker() as a:
            _, known = await running(a, "known")
            await servers.stop_following()
            run, agent = await running(a, "t")
            servers.fail_over()
            async with servers.worker() as b:
                heir, _ = await running(b, "t")
                await wait_until(agent.stopped.is_set, description="the task is stopped", timeout=10)
                assert "does not hold its thread" in (run.error or "")
                assert known.running, "its worker is known, and the run that it is known to hold continues"
                assert await b.store.holder("t") == heir.run_id


def held_back(manager: RunManager, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Its heartbeats, until the event is set."""
    pacemaker: Any = assembly_of(manager).pacemaker
    beat, may_beat = beat_of(pacemaker), threading.Event()

    def beat_when_allowed(*args: Any) -> bool:
        assert may_beat.wait(60)
        return beat(*args)

    monkeypatch.setattr(pacemaker, "_beat", beat_when_allowed)
    return may_beat


async def test_worker_whose_registration_was_lost_registers_anew_beside_one_with_its_epoch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with two_servers() as servers:
        async with servers.worker() as first:
            # A sequence is logged 32 numbers ahead: from here on the next number would be logged.
            database = Database(servers.primary.url())
            async with database.connection() as cx:
                sequence = await cx.fetchval("SELECT pg_get_serial_sequence('coordinator.workers', 'epoch')")
                while await cx.fetchval(f"SELECT log_cnt FROM {sequence}"):
                    await cx.fetchval(f"SELECT nextval('{sequence}')")
            await servers.stop_following()
            async with servers.worker() as a:
                lost, beats = a.worker.epoch, held_back(a, monkeypatch)
                _, agent = await running(a, "t")
                servers.fail_over()
                async with servers.worker() as b:
                    assert b.worker.epoch == lost, "the number is issued a second time"
                    beats.set()
                    _, heir = await running(b, "t")
                    await wait_until(agent.stopped.is_set, description="the task is stopped", timeout=10)
                    await wait_until(
                        lambda: a.worker.epoch > lost, description="it has registered anew", timeout=10
                    )
                    assert heir.running
                    rows = {row.epoch for row in await b.worker.fleet()}
                    assert {first.worker.epoch, a.worker.epoch, b.worker.epoch} <= rows, (
                        "no worker was retired for another"
                    )
