"""Workers die. Their runs end, their threads are freed, and live workers are not affected. Here a worker
stops renewing its lease; tests/multiprocess kills and pauses real processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from coordinator import RunManager, RunStatus, StoreUnavailable
from coordinator.workers.identity import boot_id
from stores.rows import NewWorker, Orphan
from stores.sqlite import SQLiteStore
from tests.support.agents import Agent, launched, running
from tests.support.inside import assembly_of, before_recoveries_of, set_clock
from tests.support.teams import team_of
from tests.support.waiting import wait_until

SHORT: dict[str, Any] = {"renew": 0.2, "lease_ttl": 0.8, "lease_margin": 0.3, "sweep": 0.1}


@pytest.fixture
async def trio(tmp_path: Path) -> AsyncGenerator[list[RunManager]]:
    """Three workers with short leases."""
    async with team_of(3, tmp_path, **SHORT) as managers:
        yield managers


async def hang(manager: RunManager) -> None:
    """Stop the heartbeats and ticks of a worker whose process lives on."""
    await assembly_of(manager).loops.stop()
    await assembly_of(manager).pacemaker.stop()


async def test_runs_of_a_dead_worker_end_and_free_their_threads(trio: list[RunManager]) -> None:
    a, b, _ = trio
    run, agent = await running(a, "t")
    await hang(a)
    _, new = await launched(b, "t", multitask_strategy="enqueue")
    async with asyncio.timeout(10):
        await new.started.wait()
    assert agent.stopped.is_set(), "it fenced itself before its peers declared it dead"
    row = await b.store.row(run.run_id)
    assert row is not None
    assert (row.status, row.cancel_cause) == (RunStatus.error, "orphaned")
    assert "is dead or lost its lease" in (row.error or ""), "the worker is alive, but a peer cannot know"


async def test_runs_of_live_workers_are_not_ended(trio: list[RunManager]) -> None:
    """Reported failure 17, and fault 3 of the registry for one process: a reconcile marked live runs as
    failed."""
    a, b, c = trio
    run, agent = await running(a, "t")
    await b.create("t2")
    ended = await c.reconcile_orphaned_inflight_runs(error="gone")
    assert ended == []
    assert agent.running
    assert run.status is RunStatus.running


async def test_cancelled_run_of_a_dead_worker_frees_its_thread(trio: list[RunManager]) -> None:
    """Reported failure 39: the run was decided and never settled, so the reaper skipped it."""
    a, b, _ = trio
    run, _ = await running(a, "t", Agent(saves={"n": 1}))
    await hang(a)
    assert await b.cancel(run.run_id, wait=10)
    assert (await b.runs.receipt(run.run_id)).status is RunStatus.interrupted
    assert not await b.has_inflight("t")


async def test_rollback_of_a_dead_worker_is_finished_by_a_peer(
    trio: list[RunManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, _ = trio
    await b.threads.replace_values("t", {"n": 1})
    run, _ = await running(a, "t", Agent(saves={"n": 2}))
    undoing = asyncio.Event()

    async def dies(*_: Any) -> Any:
        undoing.set()
        raise StoreUnavailable("this worker cannot write any more")

    monkeypatch.setattr(a.store, "restore", dies)
    await hang(a)
    assert await b.cancel(run.run_id, action="rollback")
    await assembly_of(a).runs.delivery.refresh_from_store(run.run_id)
    await undoing.wait()
    assert await b.wait(run.run_id, timeout=10) is None
    thread = await b.threads.get("t")
    assert thread.values == {"n": 1}
    row = await b.store.row(run.run_id)
    assert row is not None
    assert row.rollback_state == "done"


async def test_recovery_is_reported_once(trio: list[RunManager]) -> None:
    """Reported failure 22, here with two reconcilers of which one also sweeps."""
    a, b, c = trio
    runs = [(await running(a, f"t{at}"))[0].run_id for at in range(5)]
    for manager in trio:
        await hang(manager)
    await wait_until(lambda: expired(b, a), description="its lease is over")
    # The first look only begins to watch; both must have seen it stand still for its ttl.
    reported: list[str] = []
    while len(reported) < len(runs):
        for ended in await asyncio.gather(
            *(manager.reconcile_orphaned_inflight_runs(error="gone") for manager in (b, c))
        ):
            reported += [record.run_id for record in ended]
    assert sorted(reported) == sorted(runs)


async def expired(manager: RunManager, peer: RunManager) -> bool:
    return any(row.epoch == peer.worker.epoch and row.expired for row in await manager.worker.fleet())


async def test_orphaned_rows_without_owner_are_reconciled(trio: list[RunManager]) -> None:
    """Reported failure 24: a NULL owner is always reclaimable."""
    a, b, _ = trio
    await a.store.put("imported", thread_id="t", status="running")
    await wait_until(lambda: ended(b, "imported"), description="the sweep ends it")
    assert not await b.has_inflight("t")


async def ended(manager: RunManager, run_id: str) -> bool:
    row = await manager.store.row(run_id)
    return row is not None and row.status is RunStatus.error


async def test_cancelled_reconciliation_finishes_adopted_runs(
    trio: list[RunManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep is committed; its caller is cancelled before the answer."""
    _, b, _ = trio
    sweep, committed = b.store.sweep, asyncio.Event()

    async def slow_answer(**kwargs: Any) -> list[Orphan]:
        orphans: list[Orphan] = await sweep(**kwargs)
        committed.set()
        await asyncio.sleep(0)
        return orphans

    for manager in trio:
        await hang(manager)
        await assembly_of(manager).shared.jobs.finished(within=5)
    recovered: list[str] = []
    monkeypatch.setattr(b.store, "sweep", slow_answer)
    before_recoveries_of(b, lambda orphan: recovered.append(orphan.run_id))
    await b.store.put("imported", thread_id="t", status="running")
    asking = asyncio.create_task(b.reconcile_orphaned_inflight_runs(error="gone"))
    await committed.wait()
    asking.cancel()
    await asyncio.wait([asking])
    await wait_until(lambda: recovered == ["imported"], description="the recovery continues")


async def test_recovery_continues_after_an_outage(
    trio: list[RunManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reported failure 40: the adopted rollback is retried, and delays no other."""
    a, b, c = trio
    await b.threads.replace_values("t", {"n": 1})
    run, _ = await running(a, "t", Agent(saves={"n": 2}))
    for manager in (a, c):
        await hang(manager)
    restore, failures = b.store.restore, iter((True, True, False))

    async def flaky(*args: Any) -> Any:
        if next(failures, False):
            raise StoreUnavailable("it restarts")
        return await restore(*args)

    async def never(*_: Any) -> Any:
        raise StoreUnavailable("this worker cannot write any more")

    monkeypatch.setattr(a.store, "restore", never)
    monkeypatch.setattr(b.store, "restore", flaky)
    assert await b.cancel(run.run_id, action="rollback", wait=10)
    thread = await b.threads.get("t")
    assert thread.values == {"n": 1}


async def gone(manager: RunManager, epoch: int) -> bool:
    return all(row.epoch != epoch for row in await manager.worker.fleet())


async def test_old_run_of_a_live_worker_is_not_reconciled(trio: list[RunManager]) -> None:
    """Reported failure 41: the state of the worker counts, never the age of the run, even if the caller
    selects by age. A requested recovery does not wait for an interval."""
    a, b, _ = trio
    run, agent = await running(a, "t")
    await a.store.put("abandoned", thread_id="t2", status="running", created_at="2020-01-01T00:00:00")
    ended_now = await b.reconcile_orphaned_inflight_runs(error="gone", before="2999-01-01T00:00:00")
    swept = await ended(b, "abandoned")
    assert [record.run_id for record in ended_now] == ["abandoned"] or swept
    assert agent.running
    assert run.status is RunStatus.running


async def test_silent_worker_is_declared_dead_one_ttl_after_its_last_heartbeat(tmp_path: Path) -> None:
    """The silence counts from the last heartbeat, not from when the lease is found to be expired."""
    wall, since_boot = 1_700_000_000_000_000, 1000.0
    store = SQLiteStore(tmp_path / "runs.db", clock=lambda: wall)
    async with RunManager(store) as manager:
        reaper = assembly_of(manager).reaper
        set_clock(reaper, lambda: since_boot)
        peer = await store.register(NewWorker("peer", "elsewhere", boot_id(), 1, "0", ttl_ms=15_000))
        await reaper.sweep()
        wall, since_boot = wall + 15_000_001, since_boot + 15.0
        await reaper.sweep()
        assert peer not in [worker.epoch for worker in await store.workers()]


async def test_silent_worker_is_declared_dead_although_the_stores_clock_was_set_back(tmp_path: Path) -> None:
    """By an hour, or the clock of the new primary is behind: the lease seems to last. A worker with
    heartbeats lives."""
    wall, since_boot = 1_700_000_000_000_000, 1000.0
    store = SQLiteStore(tmp_path / "runs.db", clock=lambda: wall)
    async with RunManager(store) as manager:
        reaper = assembly_of(manager).reaper
        set_clock(reaper, lambda: since_boot)
        silent, beating = [
            await store.register(NewWorker(name, "elsewhere", boot_id(), 1, "0", ttl_ms=15_000))
            for name in ("silent", "beating")
        ]
        await reaper.sweep()
        wall -= 3_600_000_000
        for seconds in (15.0, 29.9, 30.0):
            since_boot = 1000.0 + seconds
            assert await store.beat(beating)
            assert silent in [worker.epoch for worker in await store.workers()]
            await reaper.sweep()
        left = [worker.epoch for worker in await store.workers()]
        assert (silent in left, beating in left) == (False, True)


async def test_fenced_worker_answers_wait_from_the_store(trio: list[RunManager]) -> None:
    """It has lost the run: the decision of a peer stands, and `wait` returns when a reaper has settled it."""
    a, b, _ = trio
    run, _ = await running(a, "t")
    await hang(a)
    assert await b.cancel(run.run_id)
    assert await a.wait(run.run_id, timeout=10) is None
    assert not await b.has_inflight("t")
