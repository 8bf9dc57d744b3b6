"""A fence grows whenever a thread changes hands. Writes with an older fence are refused."""

from __future__ import annotations

import asyncio

import pytest

from coordinator import LeaseLost, RunManager, RunStatus, StaleFence
from stores.rows import WorkerRow
from tests.support.agents import Agent, launched, running
from tests.support.held import hold_calls
from tests.support.inside import assembly_of
from tests.support.teams import on_every_store
from tests.support.waiting import wait_until

pytestmark = on_every_store


async def worker_row(manager: RunManager) -> WorkerRow:
    return next(row for row in await manager.worker.fleet() if row.epoch == manager.worker.epoch)


async def declare_dead(victim: RunManager, by: RunManager) -> None:
    """Fence `victim`, as a peer does after its lease has expired."""
    while not await by.store.fence_worker(await worker_row(victim), by=by.worker.epoch, proven=True):
        pass  # it renewed its lease between the read and the write


async def test_each_run_of_a_thread_has_a_higher_fence(team: list[RunManager]) -> None:
    fences: list[int] = []
    for turn in range(4):
        run, agent = await running(team[turn % 2], "t")
        fences.append(agent.ctx.fence)
        await team[0].cancel(run.run_id, wait=5)
    assert fences == sorted(set(fences))


async def test_write_after_the_end_is_refused(team: list[RunManager]) -> None:
    a, _ = team
    run, agent = await running(a, "t", Agent(saves={"n": 1}))
    agent.may_end.set()
    await a.wait(run.run_id, timeout=20)
    for refused in (lambda: agent.ctx.save({"n": 2}), lambda: agent.ctx.emit("custom", {})):
        with pytest.raises(StaleFence):
            await refused()
    with pytest.raises(StaleFence):
        agent.ctx.check()
    thread = await a.threads.get("t")
    assert thread.values == {"n": 1}


async def test_cancelled_run_may_save_once(team: list[RunManager]) -> None:
    a, b = team
    run, agent = await running(a, "t", Agent(saves={"n": 1}, stubborn=True))
    await b.cancel(run.run_id)
    await agent.cancelled.wait()
    await agent.ctx.save({"n": 2})
    with pytest.raises(StaleFence):
        await agent.ctx.save({"n": 3})
    agent.may_stop.set()


async def test_write_of_a_forced_run_is_refused(team: list[RunManager]) -> None:
    a, b = team
    _, old = await running(a, "t", Agent(saves={"n": 1}, stubborn=True))
    _, new = await launched(b, "t", Agent(saves={"n": 2}), multitask_strategy="interrupt")
    async with asyncio.timeout(10):
        await new.started.wait()
    with pytest.raises(StaleFence):
        await old.ctx.save({"n": "zombie"})
    with pytest.raises(StaleFence):
        await old.ctx.emit("custom", {})
    old.may_stop.set()
    await old.stopped.wait()


async def test_worker_declared_dead_drops_its_runs_and_registers_anew(team: list[RunManager]) -> None:
    """Its tasks are cancelled, their writes are refused, and its next run has a new epoch."""
    a, b = team
    run, agent = await running(a, "t", Agent(saves={"n": 1}, stubborn=True))
    old_epoch = a.worker.epoch
    await declare_dead(a, b)
    with pytest.raises(StaleFence):
        await agent.ctx.save({"n": 2})
    await agent.cancelled.wait()
    with pytest.raises((LeaseLost, StaleFence)):
        agent.ctx.check()
    assert run.status is RunStatus.error
    assert run.abort_event.is_set()
    agent.may_stop.set()
    await wait_until(lambda: a.worker.epoch > old_epoch, description="a new epoch")
    await wait_until(lambda: not_inflight(b), description="the thread is free")
    await running(a, "t")


async def not_inflight(manager: RunManager) -> bool:
    return not await manager.has_inflight("t")


async def test_worker_registers_anew_after_its_old_tasks_have_stopped(team: list[RunManager]) -> None:
    a, b = team
    _, agent = await running(a, "t", Agent(stubborn=True))
    old_epoch = a.worker.epoch
    await declare_dead(a, b)
    await agent.cancelled.wait()
    admitting = asyncio.create_task(a.create_or_reject("another"))
    await asyncio.sleep(0)
    assert a.worker.epoch == old_epoch
    agent.may_stop.set()
    await admitting
    assert a.worker.epoch > old_epoch


async def test_admission_continues_with_the_new_epoch(team: list[RunManager]) -> None:
    """The store reports first that the epoch is dead; the run must belong to the next one."""
    a, b = team
    await declare_dead(a, b)
    run, agent = await running(a, "t")
    row = await b.store.row(run.run_id)
    assert row is not None
    assert row.owner_epoch == a.worker.epoch
    agent.may_end.set()
    await a.wait(run.run_id, timeout=20)
    assert run.status is RunStatus.success


async def test_worker_closed_during_its_registration_leaves_no_epoch(
    team: list[RunManager],
) -> None:
    a, b = team
    held = hold_calls(a.store, "register")
    await declare_dead(a, b)
    await held.reached.wait()
    leaving = asyncio.create_task(a.aclose())
    await wait_until(lambda: assembly_of(a).loops.stopped, description="its loops are stopped")
    held.go_on.set()
    await leaving
    assert not assembly_of(a).loops.running
    assert [row.epoch for row in await b.worker.fleet()] == [b.worker.epoch]
