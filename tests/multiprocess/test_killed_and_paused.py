"""kill -9 and SIGSTOP: what happens to the runs of a worker that is dead, or paused longer than its lease."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from tests.support.postgres import Database
from tests.support.processes import (
    Fleet,
    Refused,
    WorkerProcess,
    everywhere,
    fleet_on,
    fleet_on_postgres,
    on_every_store,
    pause,
)
from tests.support.waiting import wait_until

pytestmark = pytest.mark.multiprocess

SHORT: dict[str, Any] = {"renew": 0.2, "lease_ttl": 2.0, "lease_margin": 0.3, "sweep": 0.1}


async def free(worker: WorkerProcess, thread: str) -> bool:
    return not await worker.do("inflight", thread=thread)


async def test_only_runs_of_the_killed_worker_end(fleet: Fleet) -> None:
    """The operating system proves its death: no lease has to expire first."""
    victim, other = await fleet.of(2)
    dead = await victim.do("admit", thread="t")
    alive = await other.do("admit", thread="t2")
    await victim.wait_for("started", dead)
    await other.wait_for("started", alive)
    await victim.kill()
    took = await wait_until(lambda: free(other, "t"), description="the thread is free")
    assert took < 2.5, "sooner than the lease of 3 s"
    assert await other.do("status", run=dead) == "error"
    assert await other.do("status", run=alive) == "running"
    again = await other.do("admit", thread="t")
    await other.wait_for("started", again)


async def test_run_that_waited_behind_killed_workers_run_starts(fleet: Fleet) -> None:
    victim, other = await fleet.of(2)
    dead = await victim.do("admit", thread="t")
    await victim.wait_for("started", dead)
    waiting = await other.do("admit", thread="t", strategy="interrupt")
    await victim.kill()
    await other.wait_for("started", waiting)


@on_every_store
async def test_worker_killed_while_a_run_unwinds_its_cancel(fleet: Fleet) -> None:
    """Reported failures 23 and 39: settled as interrupted, not as an error and not for ever busy."""
    victim, other = await fleet.of(2)
    run = await victim.do("admit", thread="t", unwinds=60)
    await victim.wait_for("started", run)
    assert await other.do("cancel", run=run)
    await victim.wait_for("cancelled", run)
    await victim.kill()
    assert await other.do("wait", run=run) is None
    assert await other.do("status", run=run) == "interrupted"
    assert await free(other, "t")


@everywhere
async def test_worker_killed_before_its_rollback_is_rolled_back_by_a_peer(fleet: Fleet) -> None:
    """Reported failure 23: a peer finishes the rollback before the next run starts."""
    victim, other = await fleet.of(2)
    run = await victim.do("admit", thread="t", saves={"by": "dead"}, unwinds=60)
    await victim.wait_for("started", run)
    new = await other.do("admit", thread="t", strategy="rollback")
    await victim.wait_for("cancelled", run)
    await victim.kill()
    assert (await other.wait_for("started", new))["values"] is None


async def test_restarted_worker_ends_the_runs_of_its_predecessor(fleet: Fleet) -> None:
    """Reported failures 21 and 25: a restarted worker has a new epoch and sweeps at once."""
    victim = await fleet.start(sweep=60)
    run = await victim.do("admit", thread="t")
    await victim.wait_for("started", run)
    await victim.kill()
    reborn = await fleet.start(sweep=60)
    assert reborn.epoch > victim.epoch
    await wait_until(lambda: free(reborn, "t"), description="the thread is free")
    assert await reborn.do("status", run=run) == "error"


@pytest.fixture(params=["sqlite", "postgres", "pooler"])
async def short(
    request: pytest.FixtureRequest, tmp_path: Path, shared_postgres: Database
) -> AsyncGenerator[Fleet]:
    """With short leases."""
    pooler = request.getfixturevalue("shared_pooler") if request.param == "pooler" else None
    async with (
        fleet_on(tmp_path, **SHORT)
        if request.param == "sqlite"
        else fleet_on_postgres(shared_postgres, pooler=pooler, **SHORT)
    ) as made:
        yield made


async def test_worker_paused_past_its_lease_is_fenced(short: Fleet) -> None:
    """Reported failure 20: a zombie's writes are refused, its tasks aborted, and it registers anew."""
    zombie, other = await short.of(2)
    old = await zombie.do("admit", thread="t", saves={"by": "old"})
    await zombie.wait_for("started", old)
    await pause(zombie, other)
    new = await other.do("admit", thread="t", strategy="enqueue", saves={"by": "new"})
    await other.wait_for("started", new)
    zombie.send(signal.SIGCONT)
    with pytest.raises(Refused) as refused:
        await zombie.do("save", run=old, values={"by": "zombie"})
    assert refused.value.name in ("LeaseLost", "StaleFence")
    await zombie.wait_for("cancelled", old)
    await wait_until(lambda: registered_anew(zombie), description="a new epoch")
    assert await other.do("status", run=old) == "error"
    await other.do("end", run=new)
    await other.do("wait", run=new)
    again = await zombie.do("admit", thread="t")
    assert (await zombie.wait_for("started", again))["values"] == {"by": "new"}


async def registered_anew(worker: WorkerProcess) -> bool:
    return bool(await worker.do("epoch") > worker.epoch)


@on_every_store
async def test_worker_paused_for_less_than_its_lease_continues(fleet: Fleet) -> None:
    """Reported failure 17: nothing happens to it."""
    slow, other = await fleet.of(2)
    run = await slow.do("admit", thread="t")
    await slow.wait_for("started", run)
    await pause(slow, other)
    assert await other.do("reconcile", error="gone") == []
    slow.send(signal.SIGCONT)
    assert await slow.do("epoch") == slow.epoch
    assert await other.do("status", run=run) == "running"


async def test_two_reconcilers_report_each_recovery_once(fleet: Fleet) -> None:
    """Reported failure 22."""
    only_reconcilers = {"sweep": 60, "short_tick": 120}  # the first sweep: half a short tick after the start
    victim = await fleet.start()
    one, two = [await fleet.start(**only_reconcilers) for _ in range(2)]
    runs = [await victim.do("admit", thread=f"t{at}") for at in range(20)]
    await victim.wait_for("started", runs[-1])
    await victim.kill()
    reported = await asyncio.gather(*(worker.do("reconcile", error="gone") for worker in (one, two)))
    assert sorted(reported[0] + reported[1]) == sorted(runs)


async def test_worker_that_drains_leaves_no_run(fleet: Fleet) -> None:
    leaver, other = await fleet.of(2)
    run = await leaver.do("admit", thread="t")
    await leaver.wait_for("started", run)
    await leaver.leave()
    assert await free(other, "t")
    assert await other.do("status", run=run) == "interrupted"
