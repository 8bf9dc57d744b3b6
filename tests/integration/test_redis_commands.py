"""The number of commands that Redis executes, including those that scripts call."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from coordinator import RunContext, RunManager
from coordinator.errors import ConflictError
from coordinator.servers.valkey import ValkeyServer
from tests.support.agents import running
from tests.support.teams import team_of
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_task_left")

RUN = 6
"""Commands of a run with `reject` that emits nothing: `GET` at its admission, `SET` of the slot, and the
script `release` with `PUBLISH`, `GET` and `DEL`."""

BEAT = 4.6
"""Commands of an idle worker between two canaries: the script `beat` with `SET` and `PUBLISH`, `PING` of the
abort channel, and every tenth time the script `enlist` with five commands."""

RUNS, BEATS = 20, 20
QUIET: dict[str, Any] = {"canary": 3600.0, "lease_ttl": 10_000.0}
OWN = {"info", "exists"}
CALLS = re.compile(rb"cmdstat_([a-z|]+):calls=(\d+)")


def commands(server: ValkeyServer) -> dict[str, int]:
    """Returns how often each command was executed, without those of this test."""
    stats = {
        name.decode(): int(calls) for name, calls in CALLS.findall(server.command("INFO", "commandstats"))
    }
    return {name: calls for name, calls in stats.items() if name not in OWN}


def grown(server: ValkeyServer, before: dict[str, int]) -> dict[str, int]:
    grown = {name: calls - before.get(name, 0) for name, calls in commands(server).items()}
    return {name: calls for name, calls in grown.items() if calls}


async def first_beats(server: ValkeyServer, workers: int) -> None:
    """Returns when each worker has sent its first canary."""
    leases = [f"rc:{{w:{epoch}}}:lease" for epoch in range(1, workers + 1)]
    await wait_until(
        lambda: server.command("EXISTS", *leases) == b":%d\r\n" % workers, description="first canaries"
    )


async def done(ctx: RunContext) -> str:
    ctx.check()
    return "done"


async def run_to_its_end(manager: RunManager, thread_id: str) -> None:
    record = await manager.create_or_reject(thread_id)
    manager.launch(record, done)
    await manager.wait(record.run_id, timeout=20)


async def test_plain_run_costs_six_commands(own_valkey: ValkeyServer, tmp_path: Path) -> None:
    async with team_of(1, tmp_path, redis=own_valkey.url, **QUIET) as (manager,):
        await first_beats(own_valkey, 1)
        before = commands(own_valkey)
        for number in range(RUNS):
            await run_to_its_end(manager, f"t{number % 4}")
        await wait_until(
            lambda: grown(own_valkey, before).get("publish", 0) >= RUNS, description="all are released"
        )
        of_runs = grown(own_valkey, before)
        assert sum(of_runs.values()) <= RUN * RUNS, of_runs


async def test_refused_admission_costs_one_command(own_valkey: ValkeyServer, tmp_path: Path) -> None:
    async with team_of(2, tmp_path, redis=own_valkey.url, **QUIET) as (manager, other):
        _, agent = await running(manager, "t")
        await first_beats(own_valkey, 2)
        before = commands(own_valkey)
        for _ in range(RUNS):
            with pytest.raises(ConflictError):
                await other.create_or_reject("t")
        assert grown(own_valkey, before) == {"get": RUNS}
        agent.may_end.set()


async def test_idle_worker_sends_its_canary_alone(own_valkey: ValkeyServer, tmp_path: Path) -> None:
    async with team_of(1, tmp_path, redis=own_valkey.url, canary=0.05, lease_ttl=1.5, renew=0.2):
        before = commands(own_valkey)
        await wait_until(
            lambda: grown(own_valkey, before).get("publish", 0) >= BEATS, description="beats", timeout=20
        )
        idle = grown(own_valkey, before)
        assert sum(idle.values()) <= BEAT * (idle["publish"] + 2) + 6, idle
