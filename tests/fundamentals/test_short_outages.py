"""The store is unavailable for a moment: starts and admissions continue when it is back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from coordinator import RunManager, RunStatus
from coordinator.errors import StoreUnavailable
from tests.support.agents import Agent, launched, quick, running
from tests.support.builders import locked
from tests.support.inside import assembly_of, retry_admissions_for
from tests.support.teams import team_of
from tests.support.waiting import wait_until


class Outage:
    """The named calls of the store fail until it is over. With `committed` they take effect nevertheless."""

    def __init__(self, manager: RunManager, *names: str, committed: bool = False) -> None:
        self.met = asyncio.Event()
        self.over = False
        for name in names:
            setattr(manager.store, name, self._failing(getattr(manager.store, name), committed=committed))

    def _failing(self, call: Any, *, committed: bool) -> Any:
        async def failing(*args: Any, **kwargs: Any) -> Any:
            if self.over:
                return await call(*args, **kwargs)
            if committed:
                await call(*args, **kwargs)
            self.met.set()
            raise StoreUnavailable("it is away")

        return failing


BOTH_WAYS = pytest.mark.parametrize(
    "committed", [False, True], ids=["not written", "written without an answer"]
)


@BOTH_WAYS
async def test_start_that_meets_an_outage_is_retried(manager: RunManager, committed: bool) -> None:
    run = await manager.create_or_reject("t")
    outage = Outage(manager, "start", committed=committed)
    manager.launch(run, quick)
    async with asyncio.timeout(20):
        await outage.met.wait()
    await wait_until(lambda: manager.worker.pending_writes == 1, description="the start is pending")
    outage.over = True
    assert await manager.wait(run.run_id, timeout=20) == f"done {run.run_id}"


@BOTH_WAYS
async def test_cancel_reaches_a_run_whose_start_is_pending(manager: RunManager, committed: bool) -> None:
    run, agent = await manager.create_or_reject("t"), Agent()
    outage = Outage(manager, "start", committed=committed)
    manager.launch(run, agent)
    async with asyncio.timeout(20):
        await outage.met.wait()
        assert await manager.cancel(run.run_id, wait=10)
    outage.over = True
    assert not agent.started.is_set()
    again, _ = await running(manager, "t")
    assert again.status is RunStatus.running


async def test_file_locked_at_the_start_ends_no_run(tmp_path: Path) -> None:
    async with team_of(1, tmp_path, busy_timeout=0.1, lease_ttl=60.0) as (manager,):
        run = await manager.create_or_reject("t")
        with locked(tmp_path / "runs.db"):
            manager.launch(run, quick)
            await wait_until(lambda: manager.worker.pending_writes == 1, description="the start is pending")
        assert await manager.wait(run.run_id, timeout=20) == f"done {run.run_id}"


async def test_start_of_an_operation_is_refused_at_once(manager: RunManager) -> None:
    Outage(manager, "start")
    with pytest.raises(StoreUnavailable):
        await manager.threads.replace_values("t", {"a": 1})
    assert not await manager.has_inflight("t")


@BOTH_WAYS
@pytest.mark.parametrize("strategy", ["reject", "interrupt", "enqueue"])
async def test_admission_that_meets_an_outage_continues_after_it(
    manager: RunManager, committed: bool, strategy: str
) -> None:
    retry_admissions_for(manager, 60.0)
    busy = None if strategy == "reject" else await running(manager, "t")
    outage = Outage(manager, "admit", committed=committed)
    admitting = asyncio.create_task(launched(manager, "t", multitask_strategy=strategy))
    async with asyncio.timeout(20):
        await outage.met.wait()
        outage.over = True
        run, agent = await admitting
        if busy is not None:
            if strategy == "enqueue":
                busy[1].may_end.set()
            await busy[1].stopped.wait()
        await agent.started.wait()
    assert len([row for row in await manager.runs.recent() if row.run_id == run.run_id]) == 1


async def test_admission_is_refused_when_the_outage_lasts(manager: RunManager) -> None:
    retry_admissions_for(manager, 0.1)
    outage = Outage(manager, "admit")
    async with asyncio.timeout(20):
        with pytest.raises(StoreUnavailable):
            await manager.create_or_reject("t")
    outage.over = True
    await wait_until(
        lambda: manager.worker.pending_writes == 0,
        description="a row that may have been written is withdrawn",
    )
    assert (await running(manager, "t"))[0].status is RunStatus.running


async def test_admission_whose_caller_leaves_during_an_outage_leaves_nothing(manager: RunManager) -> None:
    retry_admissions_for(manager, 60.0)
    outage = Outage(manager, "admit", committed=True)
    admitting = asyncio.create_task(manager.create_or_reject("t"))
    async with asyncio.timeout(20):
        await outage.met.wait()
        admitting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await admitting
    assert not await manager.has_inflight("t")


async def test_draining_worker_does_not_try_again(manager: RunManager) -> None:
    retry_admissions_for(manager, 60.0)
    outage = Outage(manager, "admit")
    admitting = asyncio.create_task(manager.create_or_reject("t"))
    async with asyncio.timeout(20):
        await outage.met.wait()
        await manager.worker.drain(0)
        with pytest.raises(StoreUnavailable):
            await admitting
    outage.over = True


async def complaints(manager: RunManager) -> str:
    return " / ".join((await manager.worker.health()).why_not)


async def complains(manager: RunManager, of: str) -> bool:
    return of in await complaints(manager)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.workers.health.UNWRITTEN", 0.2)


async def test_ready_is_red_while_a_write_is_pending_for_seconds(manager: RunManager, soon: None) -> None:
    run = await manager.create_or_reject("t")
    assert not await complaints(manager)
    outage = Outage(manager, "start")
    manager.launch(run, quick)
    await wait_until(lambda: complains(manager, "for the store, the oldest"), description="it is red")
    outage.over = True
    await manager.wait(run.run_id, timeout=20)
    await wait_until(lambda: complaints_are_over(manager), description="it is green again")


async def test_ready_is_red_while_the_store_refuses_an_end(manager: RunManager, soon: None) -> None:
    run, agent = await running(manager, "t")
    finish, refuses = manager.store.finish, [True]

    async def refusing(*args: Any, **kwargs: Any) -> Any:
        if refuses:
            raise RuntimeError("not this one")
        return await finish(*args, **kwargs)

    manager.store.finish = refusing
    agent.may_end.set()
    await wait_until(lambda: complains(manager, "refuses the end of 1 run"), description="it is red")
    refuses.clear()
    assert await manager.wait(run.run_id, timeout=20) is None
    await wait_until(lambda: complaints_are_over(manager), description="it is green again")


async def test_ready_is_red_while_no_heartbeat_is_written(tmp_path: Path, soon: None) -> None:
    async with team_of(1, tmp_path, lease_ttl=60.0, renew=0.1, busy_timeout=0.1) as (manager,):
        await running(manager, "t")
        with locked(tmp_path / "runs.db"):
            await wait_until(lambda: complains(manager, "no heartbeat was written"), description="it is red")
        await wait_until(lambda: complaints_are_over(manager), description="it is green again")


async def complaints_are_over(manager: RunManager) -> bool:
    return not await complaints(manager)


async def test_health_check_can_be_added(manager: RunManager) -> None:
    await manager.create_or_reject("t")
    checks = assembly_of(manager).examination.checks
    checks["moon"] = lambda seen: f"the moon is full, and the worker {seen.state}"
    assert (await manager.worker.health()).why_not == ("the moon is full, and the worker live",)
