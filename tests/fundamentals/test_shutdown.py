"""A shutdown is not a cancel: runs may finish, and tasks are stopped before their runs are decided."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from coordinator import Draining, LeaseLost, RunContext, RunManager, RunStatus
from tests.support.agents import Agent, launched, running
from tests.support.held import hold_answers, hold_calls
from tests.support.inside import assembly_of
from tests.support.teams import team_of


async def test_run_that_finishes_within_the_grace_keeps_its_success(alone: RunManager) -> None:
    run, agent = await running(alone, "t")
    leaving = asyncio.create_task(alone.shutdown(timeout=10))
    await agent.ctx.drain_event.wait()
    agent.may_end.set()
    await leaving
    assert run.status is RunStatus.success


async def test_health_names_the_state_of_the_worker() -> None:
    manager = RunManager()
    states = [(await manager.worker.health()).state]
    await manager.open()
    states.append((await manager.worker.health()).state)
    await manager.shutdown()
    states.append((await manager.worker.health()).state)
    await manager.aclose()
    assert states == ["unregistered", "live", "draining"]


async def test_run_that_finishes_while_it_unwinds_keeps_its_success(alone: RunManager) -> None:
    run, begun = await alone.create_or_reject("t"), asyncio.Event()

    async def saves_what_it_has(ctx: RunContext) -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "half an answer"
        return "never"

    alone.launch(run, saves_what_it_has)
    await begun.wait()
    await alone.shutdown(timeout=0)
    assert run.status is RunStatus.success
    assert await alone.wait(run.run_id) == "half an answer"


async def test_run_that_exceeds_the_grace_is_interrupted(tmp_path: Path) -> None:
    async with team_of(2, tmp_path) as (a, b):
        run, agent = await running(a, "t")
        await a.shutdown(timeout=0)
        assert agent.stopped.is_set()
        assert run.status is RunStatus.interrupted
        assert not await b.has_inflight("t")


async def test_closing_manager_refuses_admissions(alone: RunManager) -> None:
    await alone.shutdown(timeout=0)
    with pytest.raises(Draining):
        await alone.create_or_reject("t")


async def test_task_that_ignores_its_cancel_does_not_block_the_shutdown(tmp_path: Path) -> None:
    deaf = Agent(stubborn=True)
    async with team_of(2, tmp_path, force_after=0.3) as (a, b):
        run, _ = await running(a, "t", deaf)
        async with asyncio.timeout(20):
            await a.shutdown(timeout=0)
            await a.aclose()
        assert not await b.has_inflight("t")
        assert run.status is not RunStatus.running
        deaf.may_stop.set()
        await deaf.stopped.wait()


async def test_queued_run_of_a_closing_worker_is_interrupted(tmp_path: Path) -> None:
    async with team_of(2, tmp_path) as (a, b):
        _, holder = await running(b, "t")
        run, agent = await launched(a, "t", multitask_strategy="enqueue")
        await a.shutdown(timeout=0)
        assert run.status is RunStatus.interrupted
        assert not agent.started.is_set()
        assert holder.running


async def test_shutdown_waits_for_an_operation(tmp_path: Path) -> None:
    async with team_of(2, tmp_path) as (a, b):
        async with a.threads.hold("t", "rename") as own:
            leaving = asyncio.create_task(a.shutdown(timeout=10))
            await assembly_of(a).shared.worker.drain_event.wait()
            await a.store.save(own, {"n": 1})
        await leaving
        thread = await b.threads.get("t")
        assert thread.values == {"n": 1}


async def test_shutdown_is_idempotent(alone: RunManager) -> None:
    for _ in range(2):
        await alone.shutdown(timeout=0)
    for _ in range(2):
        await alone.aclose()


async def test_admission_answered_after_the_shutdown_is_refused(team: list[RunManager]) -> None:
    """No worker would give the queued run its turn: its caller receives an error, and a peer ends its row."""
    a, b = team
    await running(b, "t")
    held = hold_answers(a.store, "admit")
    admitting = asyncio.create_task(a.create_or_reject("t", multitask_strategy="enqueue"))
    await held.reached.wait()
    await a.aclose()
    held.go_on.set()
    with pytest.raises(LeaseLost):
        await admitting
    assert not assembly_of(a).shared.registry.unsettled()


async def test_wait_for_an_abandoned_run_ends(alone: RunManager) -> None:
    run, agent = await running(alone, "t", Agent(stubborn=True))
    entry = assembly_of(alone).shared.registry.entry(run.run_id)
    assert entry is not None
    assembly_of(alone).runs.settlement.abandon(entry, "the worker has left")
    assert entry.settled.is_set()
    assert not assembly_of(alone).shared.registry.unsettled()
    agent.may_stop.set()
    await agent.stopped.wait()


async def test_job_that_begins_while_the_worker_signs_off_does_not_outlive_it(alone: RunManager) -> None:
    """A hint, or the end of the last run, has begun it, and the store does not answer it."""
    await alone.open()
    signing_off = hold_calls(alone.store, "retire")
    leaving = asyncio.create_task(alone.aclose())
    await signing_off.reached.wait()
    job = assembly_of(alone).shared.jobs.spawn(asyncio.Event().wait(), "claiming a thread")
    signing_off.go_on.set()
    await leaving
    assert job.done()


async def test_worker_that_has_lost_its_lease_signs_off_when_it_leaves(tmp_path: Path) -> None:
    """Its peers need not wait until the lease has expired, here a minute later."""
    async with team_of(2, tmp_path, lease_ttl=60.0) as (a, b):
        run, agent = await running(a, "t")
        await assembly_of(a).loops.stop()  # else it registers anew
        worker = assembly_of(a).shared.worker
        worker.fenced(worker.epoch, "a test")
        await agent.stopped.wait()
        assert await b.has_inflight("t")
        await a.shutdown(timeout=0)
        assert await b.has_inflight("t"), "a drain alone signs off nothing"
        await a.aclose()
        assert not await b.has_inflight("t")
        assert (await b.runs.receipt(run.run_id)).status is RunStatus.error
