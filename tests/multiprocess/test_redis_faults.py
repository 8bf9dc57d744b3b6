"""Redis is killed, restarted and emptied while runs and cancels are under way."""

from __future__ import annotations

import asyncio

import pytest

from coordinator.servers.valkey import ValkeyServer
from tests.support.processes import Fleet, WorkerProcess, is_connected
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until

pytestmark = pytest.mark.multiprocess


async def started(worker: WorkerProcess, count: int, prefix: str) -> list[str]:
    runs = [await worker.do("admit", thread=f"{prefix}{at}") for at in range(count)]
    for run in runs:
        await worker.wait_for("started", run)
    return runs


async def cancelled(by: WorkerProcess, runs: list[str]) -> None:
    answers = await asyncio.gather(*(by.do("cancel", run=run, wait=15) for run in runs))
    assert answers == [True] * len(runs)


async def test_cancels_survive_a_kill_and_restart_of_redis(fragile: Fleet, own_valkey: ValkeyServer) -> None:
    owner, other = await fragile.of(2)
    runs = await started(owner, 30, "t")
    before = asyncio.create_task(cancelled(other, runs[:10]))
    own_valkey.kill()
    await before
    await cancelled(other, runs[10:20])
    own_valkey.start()
    await cancelled(other, runs[20:])
    for worker in (owner, other):
        await wait_until(lambda worker=worker: is_connected(worker), description="it heals")
    await cancelled(other, await started(owner, 5, "after"))


async def test_cancels_survive_a_flush_of_redis(fragile: Fleet, own_valkey: ValkeyServer) -> None:
    owner, other = await fragile.of(2)
    runs = await started(owner, 20, "t")
    cancelling = asyncio.create_task(cancelled(other, runs))
    for _ in range(20):
        own_valkey.command("FLUSHALL")
        await asyncio.sleep(0)
    await cancelling
    for at in range(20):
        assert not await owner.do("inflight", thread=f"t{at}")


async def test_cancel_whose_message_has_no_receiver_is_delivered_by_the_tick(
    fragile: Fleet, own_valkey: ValkeyServer
) -> None:
    """Reported failure 2: the canceller publishes on a line that swallows everything; the tick heals it."""
    async with Proxy(own_valkey.host, own_valkey.port) as proxy:
        owner = await fragile.start()
        deaf = await fragile.start(redis=proxy.url)
        (run,) = await started(owner, 1, "t")
        proxy.black_hole()
        assert await deaf.do("cancel", run=run, wait=10)
        await owner.wait_for("stopped", run)


async def test_owner_that_receives_no_hints_cancels_at_its_tick(
    fragile: Fleet, own_valkey: ValkeyServer
) -> None:
    """Reported failures 28 and 42: no error on the line, and nothing comes."""
    async with Proxy(own_valkey.host, own_valkey.port) as proxy:
        owner = await fragile.start(redis=proxy.url)
        other = await fragile.start()
        (run,) = await started(owner, 1, "t")
        proxy.black_hole()
        assert await other.do("cancel", run=run, wait=10)
        await owner.wait_for("stopped", run)
        proxy.restore()
        await wait_until(lambda: is_connected(owner), description="it heals")
