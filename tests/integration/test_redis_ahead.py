"""A Redis that is ahead of its store: the store was restored, or has failed over to a standby that lagged."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from coordinator import RunContext, RunManager, RunStatus
from coordinator.errors import StaleFence
from coordinator.event_log import Event
from coordinator.servers.valkey import ValkeyServer
from tests.fundamentals.test_streams import all_of, numbers
from tests.support.agents import running
from tests.support.inside import assembly_of
from tests.support.teams import team_of

pytestmark = pytest.mark.usefixtures("no_task_left")


async def emitting(ctx: RunContext) -> str:
    for number in range(3):
        await ctx.emit("custom", number)
    return "done"


def restore(backup: Path, folder: Path) -> None:
    for old in folder.glob("runs.db*"):
        old.unlink()
    shutil.copy(backup, folder / "runs.db")


async def finished(manager: RunManager) -> RunStatus:
    record = await manager.create_or_reject("t")
    manager.launch(record, emitting)
    await manager.wait(record.run_id, timeout=20)
    assert record.error is None
    return record.status


async def test_no_run_ends_because_redis_is_ahead_of_a_restored_store(
    own_valkey: ValkeyServer, tmp_path: Path
) -> None:
    async with team_of(1, tmp_path, redis=own_valkey.url) as (manager,):
        await finished(manager)
    backup = tmp_path / "backup"
    shutil.copy(tmp_path / "runs.db", backup)
    async with team_of(1, tmp_path, redis=own_valkey.url) as (manager,):
        for _ in range(5):
            await finished(manager)
        # The slot of a run that had not settled when its server was lost.
        own_valkey.command("SET", "rc:{t:t}:holder", "9 lost", "PX", "900000")
    restore(backup, tmp_path)
    async with team_of(2, tmp_path, redis=own_valkey.url, event_budget=10.0) as (manager, other):
        statuses = [await finished(manager) for _ in range(6)]
        assert statuses == [RunStatus.success] * 6
        run, agent = await running(manager, "t")
        await agent.ctx.emit("custom", "whole")
        agent.may_end.set()
        assert numbers(await all_of(other.follow(run.run_id))) == ["whole"]


async def test_forged_slot_ends_no_run_and_costs_no_event(own_valkey: ValkeyServer, tmp_path: Path) -> None:
    async with team_of(1, tmp_path, redis=own_valkey.url, event_budget=10.0) as (manager,):
        run, agent = await running(manager, "t")
        own_valkey.command("SET", "rc:{t:t}:holder", "99 x")
        for number in range(3):
            await agent.ctx.emit("custom", number)
        events = await manager.events(run.run_id)
        assert [event.data for event in events if isinstance(event, Event)] == [0, 1, 2]
        agent.may_end.set()
        await manager.wait(run.run_id, timeout=20)
        assert run.status is RunStatus.success


async def test_forged_slot_without_a_time_to_live_ends_no_later_run(
    own_valkey: ValkeyServer, tmp_path: Path
) -> None:
    """The fence alone, on the slot of the run that holds the thread and then on an idle thread's."""
    async with team_of(2, tmp_path, redis=own_valkey.url, event_budget=10.0) as (manager, other):
        run, agent = await running(manager, "t")
        own_valkey.command("SET", "rc:{t:t}:holder", "999999")
        await agent.ctx.emit("custom", "accepted")
        agent.may_end.set()
        await manager.wait(run.run_id, timeout=20)
        assert run.status is RunStatus.success
        assert numbers(await all_of(other.follow(run.run_id))) == ["accepted"]
        for worker in (manager, other, manager):
            own_valkey.command("SET", "rc:{t:t}:holder", "999999")
            assert await finished(worker) is RunStatus.success


async def test_run_that_lost_its_thread_in_the_store_may_not_emit(
    own_valkey: ValkeyServer, tmp_path: Path
) -> None:
    async with team_of(1, tmp_path, redis=own_valkey.url, event_budget=10.0) as (manager,):
        run, agent = await running(manager, "t")
        own = assembly_of(manager).shared.registry.entry(run.run_id)
        assert own is not None
        assert own.own is not None
        await assembly_of(manager).shared.store.refence(own.own)  # as a peer does that forces the run
        own_valkey.command("SET", "rc:{t:t}:holder", "2 next")
        with pytest.raises(StaleFence):
            await agent.ctx.emit("custom", 1)
        agent.may_end.set()
