"""The children of a run end with it, unless it succeeded. Reported failure 36."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from coordinator import ParentEnded, RunManager, RunNotFound, RunStatus
from coordinator.notifier import Signal
from tests.support.agents import Agent, launched, running
from tests.support.builders import fence_epoch
from tests.support.inside import assembly_of
from tests.support.teams import team_of
from tests.support.waiting import wait_until


async def cause_of(manager: RunManager, run_id: str) -> str | None:
    cause = (await manager.runs.receipt(run_id)).cause
    return cause and cause.value


def hints_of(manager: RunManager, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str | None]]:
    """Which run is hinted at to which worker, from here on; none of them arrives."""
    hints = list[tuple[int, str | None]]()

    def hint(epoch: int, signal: Signal) -> None:
        hints.append((epoch, signal.run_id))

    monkeypatch.setattr(assembly_of(manager).shared.notifier, "notify_worker", hint)
    return hints


async def test_cancel_reaches_every_generation_on_every_worker(team: list[RunManager]) -> None:
    a, b = team
    parent, _ = await running(a, "t")
    child, second = await running(b, "t2", parent_run_id=parent.run_id)
    grandchild, third = await running(a, "t3", parent_run_id=child.run_id)
    waits, fourth = await launched(b, "t3", multitask_strategy="enqueue", parent_run_id=parent.run_id)
    assert child.parent_run_id == parent.run_id
    assert await b.cancel(parent.run_id, wait=5)
    for run in (child, grandchild, waits):
        assert await a.wait(run.run_id, timeout=20) is None
        assert await cause_of(a, run.run_id) == "parent"
    assert (second.cancels, third.cancels, fourth.started.is_set()) == (1, 1, False)
    assert second.ctx.abort is not None
    assert second.ctx.abort.cause == "parent"


async def test_time_limit_reaches_every_generation(team: list[RunManager]) -> None:
    a, b = team
    parent, _ = await running(a, "t", timeout=0.3)
    child, agent = await running(b, "t2", parent_run_id=parent.run_id)
    assert await a.wait(child.run_id, timeout=20) is None
    assert await cause_of(b, child.run_id) == "parent"
    assert agent.cancels == 1


async def test_failed_parent_cancels_its_children(
    team: list[RunManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = team
    hints = hints_of(a, monkeypatch)
    parent, go_on = await a.create_or_reject("t"), asyncio.Event()

    async def fails(_: object) -> None:
        await go_on.wait()
        raise RuntimeError("no more")

    a.launch(parent, fails)
    await wait_until(lambda: parent.status is RunStatus.running, description="it runs")
    child, _ = await running(b, "t2", parent_run_id=parent.run_id)
    go_on.set()
    assert await a.wait(child.run_id, timeout=20) is None
    assert await cause_of(a, child.run_id) == "parent"
    assert hints == [(b.worker.epoch, child.run_id)], "its worker need not wait for a tick"


async def test_shutdown_of_the_parents_worker_cancels_its_children(
    team: list[RunManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = team
    hints = hints_of(a, monkeypatch)
    parent, _ = await running(a, "t")
    child, _ = await running(b, "t2", parent_run_id=parent.run_id)
    await a.worker.drain(grace=0)
    assert await b.wait(child.run_id, timeout=20) is None
    assert await cause_of(b, child.run_id) == "parent"
    assert hints == [(b.worker.epoch, child.run_id)], "its worker need not wait for a tick"


async def test_sweep_that_ends_a_parent_hints_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every generation on every worker. No tick helps: the loops are stopped."""
    async with team_of(3, tmp_path, lease_ttl=30.0) as (dies, reaps, other):
        parent, _ = await running(dies, "t")
        child, first = await running(reaps, "t2", parent_run_id=parent.run_id)
        grandchild, _ = await running(other, "t3", parent_run_id=child.run_id)
        great, third = await running(reaps, "t4", parent_run_id=grandchild.run_id)
        for manager in (dies, reaps, other):
            await assembly_of(manager).loops.stop()
        await assembly_of(
            dies
        ).pacemaker.stop()  # else it may learn of its end before the sweep, and sweep itself
        hints, notify = list[tuple[int, str | None]](), assembly_of(reaps).shared.notifier.notify_worker

        def hint(epoch: int, signal: Signal) -> None:
            hints.append((epoch, signal.run_id))
            notify(epoch, signal)

        monkeypatch.setattr(assembly_of(reaps).shared.notifier, "notify_worker", hint)
        await fence_epoch(reaps.store, dies.worker.epoch, by=reaps.worker.epoch)
        await assembly_of(reaps).reaper.sweep()
        async with asyncio.timeout(10):
            await first.stopped.wait()
            await third.stopped.wait()
        assert {
            (reaps.worker.epoch, child.run_id),
            (other.worker.epoch, grandchild.run_id),
            (reaps.worker.epoch, great.run_id),
        } <= {*hints}


async def test_own_workers_sweep_that_ends_a_parent_hints_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that was paused past its lease ends the runs of its former epoch when it registers anew."""
    async with team_of(2, tmp_path) as (paused, other):
        parent, _ = await running(paused, "t")
        child, _ = await running(other, "t2", parent_run_id=parent.run_id)
        await assembly_of(other).loops.stop()
        hints = hints_of(paused, monkeypatch)
        assembly_of(paused).shared.worker.fenced(paused.worker.epoch, "the lease ended")
        await wait_until(
            lambda: (other.worker.epoch, child.run_id) in hints, description="its worker is hinted"
        )


async def test_forced_parent_cancels_its_children(tmp_path: Path) -> None:
    async with team_of(2, tmp_path, force_after=0.2) as (a, b):
        deaf = Agent(stubborn=True)
        parent, _ = await running(a, "t", deaf)
        child, agent = await running(b, "t2", parent_run_id=parent.run_id)
        assert await b.cancel(parent.run_id, wait=5)
        assert await b.wait(child.run_id, timeout=20) is None
        assert (a.worker.forced, agent.cancels) == (1, 1)
        deaf.may_stop.set()
        await deaf.stopped.wait()


async def test_successful_parent_leaves_its_children_running(team: list[RunManager]) -> None:
    a, b = team
    parent, first = await running(a, "t")
    child, second = await running(b, "t2", Agent(returns="later"), parent_run_id=parent.run_id)
    first.may_end.set()
    await a.wait(parent.run_id, timeout=20)
    second.may_end.set()
    assert await a.wait(child.run_id, timeout=20) == "later"


async def test_child_of_an_ended_parent_is_refused(team: list[RunManager]) -> None:
    """The code of a cancelled run starts a child while it unwinds."""
    a, b = team
    parent, agent = await running(a, "t", Agent(stubborn=True))
    assert await b.cancel(parent.run_id)
    for manager in team:
        with pytest.raises(ParentEnded):
            await manager.create_or_reject("t2", parent_run_id=parent.run_id)
    agent.may_stop.set()
    assert not await a.has_inflight("t2")


@pytest.mark.parametrize("strategy", ["interrupt", "rollback"])
async def test_run_that_replaces_its_parent_is_not_cancelled_with_it(
    team: list[RunManager], strategy: str
) -> None:
    a, b = team
    parent, _ = await running(a, "t")
    heir, agent = await launched(
        b, "t", Agent(returns="anew"), multitask_strategy=strategy, parent_run_id=parent.run_id
    )
    agent.may_end.set()
    assert await b.wait(heir.run_id, timeout=20) == "anew"
    assert (await a.runs.get(heir.run_id)).parent_run_id is heir.parent_run_id is None


async def test_parent_of_another_user_is_not_found(team: list[RunManager]) -> None:
    a, b = team
    parent, _ = await running(a, "t", user_id="u")
    for other in (parent.run_id, "no such run"):
        with pytest.raises(RunNotFound):
            await b.create_or_reject("t2", user_id="v", parent_run_id=other)


async def test_record_store_records_the_cancelled_children() -> None:
    from coordinator import MemoryRunStore

    async with RunManager(records := MemoryRunStore()) as manager:
        parent, _ = await running(manager, "t")
        child, _ = await running(manager, "t2", parent_run_id=parent.run_id)
        await manager.cancel(parent.run_id, wait=5)
        await manager.wait(child.run_id, timeout=20)
        row = await records.get(child.run_id)
        assert row is not None
        assert row["status"] == "interrupted"
