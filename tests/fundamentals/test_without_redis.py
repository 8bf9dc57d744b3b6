"""The store decides; Redis only reduces latency. Redis may be absent, fail or lose its data at any moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from coordinator import CancelAction, Cause, ConflictError, RunManager, RunStatus
from coordinator.notifier import Connectivity
from coordinator.servers.valkey import ValkeyServer
from tests.support.agents import Agent, launched, quick, running
from tests.support.inside import assembly_of
from tests.support.proxy import Proxy
from tests.support.teams import team_of
from tests.support.waiting import wait_until


@pytest.fixture
async def with_redis(own_valkey: ValkeyServer, tmp_path: Path) -> AsyncGenerator[list[RunManager]]:
    """Two workers on a Redis that the test may harm."""
    async with team_of(2, tmp_path, redis=own_valkey.url) as managers:
        yield managers


async def everything_works(a: RunManager, b: RunManager, thread_id: str) -> None:
    run, agent = await running(a, thread_id)
    with pytest.raises(ConflictError):
        await b.create_or_reject(thread_id)
    queued, _ = await launched(b, thread_id, multitask_strategy="enqueue")
    assert await b.cancel(run.run_id, wait=5)
    assert agent.stopped.is_set()
    assert await a.cancel(queued.run_id, wait=5)
    last = await a.create_or_reject(thread_id)
    a.launch(last, quick)
    assert await b.wait(last.run_id, timeout=20) == f"done {last.run_id}"


async def test_workers_without_redis_coordinate_through_the_store(tmp_path: Path) -> None:
    async with team_of(2, tmp_path) as (a, b):
        assert a.worker.connectivity is Connectivity.off
        await everything_works(a, b, "t")


async def test_worker_without_hints_reads_the_store_at_short_ticks(tmp_path: Path) -> None:
    async with team_of(1, tmp_path, tick=3600.0, short_tick=0.05) as (manager,):
        run, agent = await running(manager, "t")
        assert await manager.store.decide(
            run.run_id, RunStatus.interrupted, action=CancelAction.interrupt, cause=Cause.user
        )
        async with asyncio.timeout(20):
            await agent.stopped.wait()


async def test_runs_continue_when_redis_dies(with_redis: list[RunManager], own_valkey: ValkeyServer) -> None:
    a, b = with_redis
    run, agent = await running(a, "t")
    own_valkey.kill()
    assert await b.cancel(run.run_id, wait=5)
    assert agent.stopped.is_set()
    await everything_works(a, b, "t")
    await wait_until(lambda: a.worker.connectivity is Connectivity.down, description="it reports the loss")


async def test_short_ticks_begin_at_once_when_hints_stop(own_valkey: ValkeyServer, tmp_path: Path) -> None:
    """The next tick of a worker that receives hints is an hour away."""
    async with team_of(1, tmp_path, redis=own_valkey.url, tick=3600.0) as (manager,):
        run, agent = await running(manager, "t")
        assert await manager.store.decide(
            run.run_id, RunStatus.interrupted, action=CancelAction.interrupt, cause=Cause.user
        )
        own_valkey.kill()
        async with asyncio.timeout(20):
            await agent.stopped.wait()


async def test_restarted_redis_is_used_again(with_redis: list[RunManager], own_valkey: ValkeyServer) -> None:
    a, b = with_redis
    own_valkey.kill()
    await wait_until(lambda: a.worker.connectivity is Connectivity.down, description="the loss is noticed")
    own_valkey.start()
    for manager in with_redis:
        await wait_until(
            lambda manager=manager: manager.worker.connectivity is Connectivity.connected,
            description="it heals",
        )
    await everything_works(a, b, "t")


async def test_flushed_redis_loses_no_run(with_redis: list[RunManager], own_valkey: ValkeyServer) -> None:
    a, b = with_redis
    run, agent = await running(a, "t")
    own_valkey.command("FLUSHALL")
    with pytest.raises(ConflictError):
        await b.create_or_reject("t")
    assert await b.cancel(run.run_id, wait=5)
    assert agent.stopped.is_set()
    await everything_works(a, b, "t")


async def test_stale_redis_keys_block_no_run(with_redis: list[RunManager], own_valkey: ValkeyServer) -> None:
    """A slot without a holder costs one read of the store, never an admission."""
    a, b = with_redis
    own_valkey.command("SET", "rc:{t:t}:holder", "999 ghost", "PX", "60000")
    await everything_works(a, b, "t")


async def test_half_open_connection_to_redis_is_replaced(own_valkey: ValkeyServer, tmp_path: Path) -> None:
    """Reported failure 28: no error, no answer. The worker detects it, and cancels arrive meanwhile."""
    async with (
        Proxy(own_valkey.host, own_valkey.port) as proxy,
        team_of(2, tmp_path, redis=proxy.url) as team,
    ):
        a, b = team
        run, agent = await running(a, "t", Agent())
        proxy.black_hole()
        assert await b.cancel(run.run_id, wait=5)
        assert agent.stopped.is_set()
        await wait_until(
            lambda: a.worker.connectivity is not Connectivity.connected, description="the hole is noticed"
        )
        proxy.restore()
        await wait_until(lambda: a.worker.connectivity is Connectivity.connected, description="it heals")


async def test_forged_and_malformed_messages_have_no_effect(
    with_redis: list[RunManager], own_valkey: ValkeyServer
) -> None:
    """Intent before signal: a message only makes its receiver read the row again."""
    a, _ = with_redis
    run, agent = await running(a, "t")
    channel = f"rc:{{w:{a.worker.epoch}}}:ctl"
    for message in (
        f'{{"kind":"cancel","thread_id":"t","run_id":"{run.run_id}"}}',
        '{"kind":"claim","thread_id":"t"}',
        f'{{"kind":"settled","thread_id":"t","run_id":"{run.run_id}"}}',
        '{"kind":"destroy"}',
        "no json",
    ):
        own_valkey.command("PUBLISH", channel, message)
    notifier: Any = assembly_of(a).shared.notifier  # the Redis one
    await wait_until(lambda: notifier.rejected >= 2, description="the broken ones are counted")
    await asyncio.sleep(0)
    assert agent.running
    assert (await a.runs.explain(run.run_id)).phase == "running"
