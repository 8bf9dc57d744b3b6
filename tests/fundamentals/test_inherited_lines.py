"""A queue that a worker handed over, or left when it died, needs no tick between its runs: the loops of the
heirs are stopped, so that only hints and the ends of runs advance it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from coordinator import RunContext, RunManager, Settings, open_coordinator
from coordinator.notifier import Connectivity
from coordinator.servers.valkey import ValkeyServer
from tests.fundamentals.test_worker_death import hang
from tests.support.agents import running
from tests.support.builders import fence_epoch
from tests.support.inside import assembly_of
from tests.support.postgres import Database
from tests.support.teams import QUICK
from tests.support.waiting import wait_until

LENGTH = 20


async def counts(ctx: RunContext) -> int:
    await asyncio.sleep(0)
    return ctx.fence


class Workers:
    """Opens workers on one store."""

    def __init__(self, stack: AsyncExitStack, store: dict[str, Any]) -> None:
        self._stack, self._store = stack, store

    async def open(self, *assistants: str, **overrides: Any) -> RunManager:
        given: dict[str, Any] = {**QUICK, "lease_ttl": 30.0, "grace": 0.1, **self._store, **overrides}
        settings = Settings(**given)
        names = dict.fromkeys(assistants, counts)
        manager = await self._stack.enter_async_context(open_coordinator(settings=settings, assistants=names))
        if self._store.get("redis") or settings.store.startswith("postgresql:"):
            await wait_until(
                lambda: manager.worker.connectivity is Connectivity.connected,
                description="it is subscribed to its abort channel",
            )
        return manager

    async def without_ticks(self, *managers: RunManager) -> None:
        """Stop the loops of these workers. They still receive hints and renew their leases."""
        for manager in managers:
            await assembly_of(manager).loops.stop()


@pytest.fixture(params=["sqlite", "redis", "postgres"])
async def workers(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    shared_valkey: ValkeyServer,
    shared_postgres: Database,
    namespace: str,
) -> AsyncGenerator[Workers]:
    async with AsyncExitStack() as stack:
        store: dict[str, Any] = {"store": f"sqlite:///{tmp_path / 'runs.db'}", "namespace": namespace}
        if request.param == "postgres":
            url, schema = await stack.enter_async_context(shared_postgres.worker())
            store.update(store=url, postgres_schema=schema)
        elif request.param == "redis":
            store.update(redis=shared_valkey.url)
        yield Workers(stack, store)


async def a_line(manager: RunManager) -> list[str]:
    line: list[str] = []
    for _ in range(LENGTH):
        run = await manager.create_or_reject("t", "agent", multitask_strategy="enqueue")
        manager.launch(run)
        line.append(run.run_id)
    return line


async def all_ended(manager: RunManager, line: list[str]) -> None:
    """In their order: each has the next fence of the thread."""
    async with asyncio.timeout(20):
        results = [await manager.wait(run_id) for run_id in line]
    assert results == list(range(results[0], results[0] + LENGTH))


async def test_handed_over_queue_needs_no_tick_between_its_runs(workers: Workers) -> None:
    """A rolling restart: the worker leaves while another one executes a run of the thread."""
    stays, leaves = await workers.open("agent"), await workers.open("agent")
    _, holder = await running(stays, "t")
    line = await a_line(leaves)
    await workers.without_ticks(stays)
    await leaves.worker.drain(grace=0)
    holder.may_end.set()
    await all_ended(stays, line)


async def test_queue_of_a_dead_worker_needs_no_tick_between_its_runs(workers: Workers) -> None:
    heir, dies = await workers.open("agent"), await workers.open("agent")
    _, holder = await running(heir, "t")
    line = await a_line(dies)
    await workers.without_ticks(heir)
    await hang(dies)
    await fence_epoch(heir.store, dies.worker.epoch, by=heir.worker.epoch)
    holder.may_end.set()
    await all_ended(heir, line)


async def test_sweep_passes_the_thread_of_a_dead_worker_to_the_next_home(
    workers: Workers,
) -> None:
    heir, dies = await workers.open("agent"), await workers.open("agent")
    await running(dies, "t")
    line = await a_line(dies)
    await workers.without_ticks(heir)
    await hang(dies)
    await fence_epoch(heir.store, dies.worker.epoch, by=heir.worker.epoch)
    await assembly_of(heir).reaper.sweep()
    await all_ended(heir, line)


@pytest.mark.parametrize("workers", ["redis", "postgres"], indirect=True)
async def test_worker_without_the_assistant_hints_one_that_has_it(workers: Workers) -> None:
    """Where hints travel; otherwise the next worker claims at its tick."""
    stranger, heir, leaves = [await workers.open(*known) for known in ((), ("agent",), ("agent",))]
    _, holder = await running(stranger, "t")
    line = await a_line(leaves)
    await workers.without_ticks(stranger, heir)
    await leaves.worker.drain(grace=0)
    holder.may_end.set()
    await all_ended(heir, line)


@pytest.mark.parametrize("workers", ["redis", "postgres"], indirect=True)
async def test_sweep_hints_the_live_home_of_the_next_run(workers: Workers) -> None:
    """The reaper has no run in that queue itself."""
    reaper, home, dies = [await workers.open(*known) for known in ((), ("agent",), ())]
    await running(dies, "t")
    line = await a_line(home)
    await workers.without_ticks(reaper, home)
    await hang(dies)
    await fence_epoch(reaper.store, dies.worker.epoch, by=reaper.worker.epoch)
    await assembly_of(reaper).reaper.sweep()
    await all_ended(home, line)
