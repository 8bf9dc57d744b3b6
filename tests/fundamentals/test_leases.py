"""The lease: a worker may act until its lease ends, and is fenced if it renews too late. tests/multiprocess
blocks, pauses and kills real processes; here tests hold the gate and move clocks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from coordinator import LeaseLost, RunManager, RunStatus, Settings, StoreUnavailable, open_coordinator
from coordinator.clock import Clocks, boottime
from stores.memory import MemoryStore
from stores.rows import WorkerRow
from tests.fundamentals.test_worker_death import SHORT, ended, hang
from tests.support.agents import Agent, launched, running
from tests.support.builders import stored
from tests.support.children import Child
from tests.support.held import hold_calls
from tests.support.inside import assembly_of, extend_lease
from tests.support.teams import QUICK, team_of
from tests.support.waiting import wait_until
from tests.unit.test_gate import HOLD

BUSY: dict[str, Any] = {**SHORT, "lease_ttl": 2.0}
"""For tests in which no worker has to die, on a machine that may be busy."""


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncGenerator[list[RunManager]]:
    async with team_of(2, tmp_path, **BUSY) as managers:
        yield managers


async def heartbeats(manager: RunManager) -> int:
    return next(row.hb_seq for row in await manager.worker.fleet() if row.epoch == manager.worker.epoch)


async def test_saturated_writer_does_not_starve_the_heartbeat(tmp_path: Path) -> None:
    """Reported failure 18: the heartbeat has its own connection, and priority at the gate."""
    async with team_of(1, tmp_path, **BUSY) as (manager,):
        run, agent = await running(manager, "t")
        epoch, before, full = manager.worker.epoch, await heartbeats(manager), True

        async def write() -> None:
            while full:
                await manager.store.update_run_progress(run.run_id, total_tokens=1)

        writers = [asyncio.create_task(write()) for _ in range(200)]
        await wait_until(lambda: beaten(manager, before + 8), description="eight more beats", timeout=15)
        full = False
        await asyncio.gather(*writers)
        assert (manager.worker.epoch, agent.running) == (epoch, True)


async def beaten(manager: RunManager, number: int) -> bool:
    return await heartbeats(manager) >= number


async def test_one_slow_renewal_fences_no_worker(pair: list[RunManager], tmp_path: Path) -> None:
    """Reported failure 18: a late renewal before the deadline loses nothing."""
    a, _ = pair
    _, agent = await running(a, "t")
    epoch = a.worker.epoch
    with Child(HOLD, tmp_path / "runs.db") as stranger:
        assert stranger.receive() == "held"
        left = assembly_of(a).shared.worker.lease.remaining
        await wait_until(
            lambda: assembly_of(a).shared.worker.lease.remaining < left - 0.6,
            description="three renewals are overdue",
        )
        stranger.send()
        assert stranger.receive() == "released"
        await wait_until(
            lambda: assembly_of(a).shared.worker.lease.remaining > 1.2, description="it is renewed"
        )
    assert (a.worker.epoch, agent.running) == (epoch, True)


async def test_worker_on_the_memory_store_stays_ready_after_its_lease_ttl() -> None:
    """No peer reads its row and no heartbeat renews its lease, so the passing of time must not end it."""
    elapsed, settings = 0.0, Settings(**QUICK)
    clocks = Clocks(boottime=lambda: boottime() + elapsed)
    async with RunManager(MemoryStore(), settings=settings, clocks=clocks) as manager:
        epoch = manager.worker.epoch
        elapsed = 2 * settings.lease_ttl
        health = await manager.worker.health()
        assert (health.ready, health.state, health.lease_remaining) == (True, "live", None)
        _, agent = await running(manager, "t")
        assert (manager.worker.epoch, agent.running) == (epoch, True)


async def test_worker_declared_dead_is_not_revived(tmp_path: Path) -> None:
    """The renewal returns after the deadline: the worker is already fenced, and registers anew."""
    async with team_of(1, tmp_path, **SHORT) as (manager,):
        _, agent = await running(manager, "t")
        epoch = manager.worker.epoch
        with Child(HOLD, tmp_path / "runs.db") as stranger:
            assert stranger.receive() == "held"
            await agent.stopped.wait()
            with pytest.raises(LeaseLost):
                agent.ctx.services.check()
            stranger.send()
            await wait_until(lambda: manager.worker.epoch > epoch, description="a new epoch")
        with pytest.raises(LeaseLost):
            assembly_of(manager).shared.worker.check(epoch)


async def test_error_of_a_run_whose_worker_lost_its_lease_names_the_lease(tmp_path: Path) -> None:
    """The worker has not shut down: an operator would search for its end in vain."""
    async with team_of(1, tmp_path, **SHORT) as (manager,):
        run, agent = await running(manager, "t")
        epoch = manager.worker.epoch
        with Child(HOLD, tmp_path / "runs.db") as stranger:
            assert stranger.receive() == "held"
            await agent.stopped.wait()
            stranger.send()
        await wait_until(lambda: ended(manager, run.run_id), description="its row has ended")
        row = await manager.store.row(run.run_id)
        assert row is not None
        assert row.error == (
            f"Worker epoch {epoch} lost its lease before this run finished: the lease could not be renewed in"
            " time"
        )


async def test_renewed_lease_prevents_the_declaration_of_death(
    pair: list[RunManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reported failure 19: the reaper has read an expired lease; the declaration is a compare-and-set."""
    a, b = pair
    _, agent = await running(a, "t")
    await assembly_of(a).pacemaker.stop()
    fence_worker, tried = b.store.fence_worker, list[bool]()

    async def renewed_first(peer: WorkerRow, **how: Any) -> bool:
        assert await a.store.beat(peer.epoch)
        tried.append(await fence_worker(peer, **how))
        return tried[-1]

    monkeypatch.setattr(b.store, "fence_worker", renewed_first)
    extend_lease(a, 1e12)
    await wait_until(lambda: tried, description="the reaper has tried", timeout=10)
    assert tried[0] is False
    assert agent.running


async def test_result_queued_before_a_pause_is_refused_after_the_declaration_of_death(
    pair: list[RunManager],
) -> None:
    """Reported failure 20: the result was checked while the lease was valid, and reaches the store too late.
    The guard is part of the transaction, so the time of the commit counts."""
    a, b = pair
    run, agent = await running(a, "t", Agent(returns="too late"))
    held = hold_calls(a.store, "finish")
    agent.may_end.set()
    await held.reached.wait()
    victim = next(row for row in await b.worker.fleet() if row.epoch == a.worker.epoch)
    await wait_until(lambda: declared_dead(b, victim), description="no heartbeat between read and write")
    held.go_on.set()
    await wait_until(lambda: ended(b, run.run_id), description="the sweep ends it")
    row = await b.store.row(run.run_id)
    assert row is not None
    assert (row.status, row.result) == (RunStatus.error, None)


async def declared_dead(by: RunManager, victim: WorkerRow) -> bool:
    """Declares `victim` dead with a proof of its death. Returns False if a heartbeat intervened."""
    row = next((row for row in await by.worker.fleet() if row.epoch == victim.epoch), None)
    return row is None or await by.store.fence_worker(row, by=by.worker.epoch, proven=True)


async def test_fenced_worker_writes_no_counters(pair: list[RunManager]) -> None:
    """The check is inline: it does not depend on a watchdog."""
    a, b = pair
    run, _ = await running(a, "t")
    await a.update_run_completion(run.run_id, total_tokens=1)
    assembly_of(a).shared.worker.lease.end(a.worker.epoch)
    await a.update_run_completion(run.run_id, total_tokens=2)
    await a.update_model_name(run.run_id, "late")
    row = await b.store.row(run.run_id)
    assert row is not None
    assert (row.counters["total_tokens"], row.model_name) == (1, None)


async def orphaned(folder: Path) -> str:
    """A worker dies; its run is left on the thread `t`."""
    async with team_of(1, folder, sweep=3600.0) as (manager,):  # else it may end the run itself
        await manager.store.put("orphan", thread_id="t", status="running", created_at="2026-01-01T00:00:00Z")
        await hang(manager)
    return "orphan"


LATER: dict[str, Any] = {**QUICK, "sweep": 3600, "short_tick": 3600}


async def test_new_worker_sweeps_before_its_first_admission(tmp_path: Path) -> None:
    """Reported failure 25: the first caller does not wait for an interval."""
    orphan = await orphaned(tmp_path)
    async with open_coordinator(f"sqlite:///{tmp_path / 'runs.db'}", settings=Settings(**LATER)) as manager:
        many = await asyncio.gather(
            *(manager.create_or_reject("t") for _ in range(3)), return_exceptions=True
        )
        assert sum(not isinstance(one, Exception) for one in many) == 1
        assert await ended(manager, orphan)


async def test_reconciliation_counts_as_the_first_sweep(tmp_path: Path) -> None:
    """Its error text is written, and it reports the runs that it has ended."""
    orphan = await orphaned(tmp_path)
    async with open_coordinator(f"sqlite:///{tmp_path / 'runs.db'}", settings=Settings(**LATER)) as manager:
        reported = await manager.reconcile_orphaned_inflight_runs(error="restarted")
        await manager.create_or_reject("t")
        assert [(record.run_id, record.error) for record in reported] == [(orphan, "restarted")]


async def test_first_admission_during_an_outage_fails_and_the_next_one_sweeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reported failure 40, at the start."""
    orphan = await orphaned(tmp_path)
    async with open_coordinator(f"sqlite:///{tmp_path / 'runs.db'}", settings=Settings(**LATER)) as manager:
        with monkeypatch.context() as away:

            async def fails(**_: Any) -> Any:
                raise StoreUnavailable("it restarts")

            away.setattr(manager.store, "sweep", fails)
            with pytest.raises(StoreUnavailable):
                await manager.create_or_reject("u")
        await manager.create_or_reject("t")
        assert await ended(manager, orphan)


async def test_failing_rollback_of_an_orphan_is_tried_three_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attempts are counted in the row: neither a crash nor a new reaper resets them."""
    async with team_of(2, tmp_path, **SHORT) as (a, b):
        run, agent = await running(a, "t", Agent(saves={"n": 2}, stubborn=True))
        tried = list[int]()

        async def breaks(thread_id: str, run_id: str, ref: Any, fence: int) -> Any:
            tried.append(fence)
            raise ZeroDivisionError("no way back")

        monkeypatch.setattr(assembly_of(b).shared.values, "restore", breaks)
        assert await b.cancel(run.run_id, action="rollback")
        await hang(a)
        await wait_until(lambda: free(b), description="the thread is free", timeout=15)
        row = await b.store.row(run.run_id)
        assert row is not None
        assert (row.status, row.rollback_state) == (RunStatus.interrupted, "failed")
        assert row.error == "Rollback failed: ZeroDivisionError: no way back"
        assert len(tried) == 3
        assert tried == sorted(set(tried)), "each with a newer fence"
        thread = await b.threads.get("t")
        assert thread.status == "error"
        agent.may_stop.set()
        await agent.stopped.wait()


async def free(manager: RunManager) -> bool:
    return not await manager.has_inflight("t")


async def test_hanging_rollback_does_not_block_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with team_of(2, tmp_path, **SHORT) as (a, b):
        run, agent = await running(a, "t", Agent(saves={"n": 2}, stubborn=True))
        hanging, go_on = asyncio.Event(), asyncio.Event()

        async def hangs(*_: Any) -> Any:
            hanging.set()
            await go_on.wait()

        monkeypatch.setattr(assembly_of(b).shared.values, "restore", hangs)
        assert await b.cancel(run.run_id, action="rollback")
        await hang(a)
        async with asyncio.timeout(10):
            await hanging.wait()
        await b.store.put("other", thread_id="u", status="running")
        await wait_until(lambda: ended(b, "other"), description="others are ended meanwhile")
        go_on.set()
        await wait_until(lambda: free(b), description="the thread is free")
        agent.may_stop.set()
        await agent.stopped.wait()


async def test_worker_that_receives_no_decisions_is_not_ready_and_heals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reported failure 42: its heartbeat continues while its ticks fail."""
    async with team_of(1, tmp_path, tick=0.1, short_tick=0.05) as (manager,):
        await wait_until(lambda: ticked(manager), description="the first tick")
        health = await manager.worker.health()
        assert (health.ready, health.state, health.why_not) == (True, "live", ())
        assert health.lease_remaining is not None
        with monkeypatch.context() as deaf:

            async def unheard(*_: object) -> Any:
                raise StoreUnavailable("no answer")

            deaf.setattr(manager.store, "tick", unheard)
            await wait_until(lambda: unready(manager), description="it is red")
            assert "deaf" in (await manager.worker.health()).why_not[0]
        await wait_until(lambda: ready(manager), description="it is green again")


async def test_health_names_a_store_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.workers.health.READ_TIMEOUT", 0.05)
    async with team_of(1, tmp_path) as (manager,):
        held = hold_calls(manager.store, "workers")
        health = await manager.worker.health()
        assert (health.ready, health.store_reachable) == (False, False)
        assert health.store_error == "no answer within 0.05 s"
        assert "the store does not answer: no answer within 0.05 s" in health.why_not
        held.go_on.set()
        assert (await manager.worker.health()).store_reachable


async def ticked(manager: RunManager) -> bool:
    return (await manager.worker.health()).ticked_ago is not None


async def ready(manager: RunManager) -> bool:
    return (await manager.worker.health()).ready


async def unready(manager: RunManager) -> bool:
    return not await ready(manager)


async def test_health_names_the_process_that_blocks_writes(tmp_path: Path) -> None:
    async with team_of(1, tmp_path) as (manager,):
        await launched(manager, "t")
        with Child(HOLD, tmp_path / "runs.db") as stranger:
            assert stranger.receive() == "held"
            assert (await manager.worker.health()).blocked_by == stranger.pid
            stranger.send()
            assert stranger.receive() == "released"
        assert (await manager.worker.health()).blocked_by is None
        assert stored(tmp_path / "runs.db")
