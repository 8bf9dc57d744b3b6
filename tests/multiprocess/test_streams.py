"""A run followed from another process, and its stream after its owner has died or has become a zombie."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from coordinator.servers.valkey import ValkeyServer
from tests.support.processes import Fleet, Refused, fleet_on, pause
from tests.support.waiting import wait_until

pytestmark = pytest.mark.multiprocess


everywhere = pytest.mark.parametrize("fleet", ["redis", "store only", "postgres", "pooler"], indirect=True)


def received(worker: Any) -> list[Any]:
    return [event["data"] for event in worker.events if event["event"] == "received"]


async def is_refused(worker: Any, run: str) -> bool:
    return await worker.do("force_append", run=run) == "stale"


async def can_read(worker: Any, run: str) -> bool:
    return await worker.do("events", run=run) == ["before"]


async def free(worker: Any, thread: str) -> bool:
    return not await worker.do("inflight", thread=thread)


@everywhere
async def test_follower_on_another_process_reads_to_the_end(fleet: Fleet) -> None:
    owner, other = await fleet.of(2)
    run = await owner.do("admit", thread="t")
    await owner.wait_for("started", run)
    await other.do("follow", run=run)
    await owner.do("emit", run=run, data=list(range(100)))
    await owner.do("end", run=run)
    end = await other.wait_for("end", run)
    assert (end["status"], end["complete"]) == ("success", True)
    assert received(other) == list(range(100))


@everywhere
async def test_follower_of_killed_owner_receives_an_end_with_error(fleet: Fleet) -> None:
    owner, other = await fleet.of(2)
    run = await owner.do("admit", thread="t")
    await owner.wait_for("started", run)
    await other.do("follow", run=run)
    await owner.do("emit", run=run, data=[1, 2, 3])
    await wait_until(lambda: len(received(other)) == 3, description="all events are received")
    await owner.kill()
    end = await other.wait_for("end", run)
    assert end["status"] == "error"
    assert not end["complete"], "the owner may have emitted further events"
    assert received(other) == [1, 2, 3]
    late = await fleet.start()
    await late.do("follow", run=run)
    assert not (await late.wait_for("end", run))["complete"]
    assert received(late) == [1, 2, 3]


@pytest.mark.parametrize("redis", [True, False], ids=["redis", "store only"])
async def test_fenced_worker_appends_no_event(tmp_path: Path, own_valkey: ValkeyServer, redis: bool) -> None:
    """Two real workers: the owner is paused past its lease, a peer declares it dead and takes the thread."""
    short = {"renew": 0.2, "lease_ttl": 2.0, "lease_margin": 0.3, "sweep": 0.1}
    async with fleet_on(tmp_path, own_valkey.url if redis else None, **short) as fleet:
        owner, other = await fleet.of(2)
        old = await owner.do("admit", thread="t", unwinds=5)
        await owner.wait_for("started", old)
        await owner.do("emit", run=old, data=["before"])
        await wait_until(lambda: can_read(other, old), description="its event is in the log")
        await pause(owner, other)
        await wait_until(lambda: free(other, "t"), description="the owner is declared dead", timeout=15)
        new = await other.do("admit", thread="t")
        await other.wait_for("started", new)
        owner.send(signal.SIGCONT)
        with pytest.raises(Refused, match=r"LeaseLost|StaleFence"):
            await owner.do("emit", run=old, data=["zombie"])
        # As if its own checks had failed: the slot's fence refuses it, or the run's row.
        appended = await owner.do("force_append", run=old)
        assert appended == "stale" or not redis  # the next append returns a refusal of the store
        await wait_until(lambda: is_refused(owner, old), description="its events are refused")
        assert await other.do("events", run=old) == ["before"]


async def test_stream_refuses_stale_fence_without_a_slot(fragile: Fleet) -> None:
    owner, other = await fragile.of(2)
    run = await owner.do("admit", thread="t")
    await owner.wait_for("started", run)
    await owner.do("emit", run=run, data=["mine"])
    await other.do("take_over", run=run)
    assert await owner.do("force_append", run=run) == "stale"
    assert await other.do("events", run=run) == ["mine", "taken over"]
