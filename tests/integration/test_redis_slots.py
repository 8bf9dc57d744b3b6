"""Slots that are wrong: written late, or by a worker of another version."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator import RunManager
from coordinator.errors import ConflictError
from coordinator.locks.redis import RedisSlotLock
from coordinator.servers.valkey import ValkeyServer
from tests.support.agents import running
from tests.support.linked import linked
from tests.support.teams import team_of
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_task_left")


async def refused_by(worker: RunManager) -> str | None:
    """Returns the run that the conflict names."""
    with pytest.raises(ConflictError) as conflict:
        await worker.create_or_reject("t")
    return conflict.value.active_run_id


async def test_late_bind_of_an_older_run_ends_with_the_newer_one(
    own_valkey: ValkeyServer, tmp_path: Path
) -> None:
    """A worker was delayed between the answer of the store and its write to Redis, until another worker had
    admitted the next run."""
    async with team_of(2, tmp_path, redis=own_valkey.url) as (late, other):
        old, old_agent = await running(late, "t")
        old_agent.may_end.set()
        await late.wait(old.run_id, timeout=20)
        new, new_agent = await running(other, "t")
        async with linked(own_valkey.url, "rc") as link:
            RedisSlotLock(link).bind("t", old.run_id, fence=1)
        assert [await refused_by(worker) for worker in (late, other)] == [new.run_id] * 2
        new_agent.may_end.set()
        await other.wait(new.run_id, timeout=20)
        await wait_until(
            lambda: own_valkey.command("EXISTS", "rc:{t:t}:holder") == b":0\r\n", description="released"
        )
        _, last_agent = await running(late, "t")
        last_agent.may_end.set()


async def test_removed_slot_of_a_running_run_admits_no_second_one(
    own_valkey: ValkeyServer, tmp_path: Path
) -> None:
    """A late release has removed the slot that a late bind had overwritten: the thread looks free."""
    async with team_of(2, tmp_path, redis=own_valkey.url) as (owner, other):
        run, agent = await running(owner, "t")
        await wait_until(
            lambda: own_valkey.command("DEL", "rc:{t:t}:holder") == b":1\r\n", description="removed"
        )
        assert await refused_by(other) == run.run_id
        agent.may_end.set()


async def test_slot_of_an_earlier_version_is_neither_read_nor_changed(
    own_valkey: ValkeyServer, tmp_path: Path
) -> None:
    """A hash, which that version refuses to read as anything else. Its worker removes it, or its TTL."""
    old = ("rc:{t:t}:slot", "run", "r", "epoch", "1", "fence", "7")
    own_valkey.command("HSET", *old)
    own_valkey.command("SET", "rc:{t:t}:resv", "r", "PX", "5000")
    async with team_of(1, tmp_path, redis=own_valkey.url) as (manager,):
        run, agent = await running(manager, "t")
        await agent.ctx.emit("custom", 1)
        agent.may_end.set()
        await manager.wait(run.run_id, timeout=20)
    assert own_valkey.command("HGET", old[0], "fence") == b"$1\r\n7\r\n"
    assert b"WRONGTYPE" not in own_valkey.command("INFO", "errorstats")
