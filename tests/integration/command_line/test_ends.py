"""`runs cancel` of a run that does not stop, and `runs show` of ended runs."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from coordinator import RunManager
from tests.support.agents import Agent, running
from tests.support.builders import stored
from tests.support.children import Child
from tests.support.command_line import DONE, FAILED, Answer, cli
from tests.support.teams import team_of
from tests.support.waiting import wait_until

BLOCKED = """
import asyncio, time
from coordinator import open_coordinator
async def blocks(ctx):
    time.sleep(600)
async def main():
    async with open_coordinator(f"sqlite:///{args[0]}") as manager:
        run = await manager.create_or_reject("t")
        manager.launch(run, blocks)
        await manager.wait(run.run_id)
asyncio.run(main())
"""
"""A worker whose event loop is blocked by its run."""


async def test_cancel_of_a_run_that_blocks_its_worker_names_the_worker_and_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    env = {
        "COORDINATOR_STORE": f"sqlite:///{path}",
        "COORDINATOR_FORCE_AFTER": "0.5",
        "COORDINATOR_TICK": "0.2",
    }
    with Child(BLOCKED, path) as worker:
        await wait_until(lambda: is_running(path), description="the run blocks the worker", timeout=20)
        (run_id,) = stored(path, "SELECT run_id FROM runs")
        early = await cli("runs", "cancel", run_id, "--wait", "0.1", "--json", env=env)
        assert (early.code, early.error["type"]) == (FAILED, "NotSettled")
        assert "unless the event loop of its worker is blocked" in early.error["hint"]
        late = await cli("runs", "cancel", run_id, "--wait", "2", "--json", env=env)
        assert late.code == FAILED
        assert "Worker epoch 1 does not answer" in late.error["hint"]
        assert f"kill -9 {worker.pid}" in late.error["hint"]
        assert "1 min 15 s after" in late.error["hint"]
        assert "does not answer" in (await cli("runs", "cancel", run_id, env=env)).out


def is_running(path: Path) -> bool:
    try:
        return stored(path, "SELECT status FROM runs") == ["running"]
    except sqlite3.OperationalError:  # the worker has not created the store yet
        return False


@pytest.mark.parametrize("end", ["itself", "cancel", "force", "dead worker"])
async def test_runs_show_names_what_ended_a_run(tmp_path: Path, end: str) -> None:
    env = {"COORDINATOR_STORE": f"sqlite:///{tmp_path / 'runs.db'}"}
    async with team_of(1, tmp_path, force_after=0.3) as (manager,):
        agent = Agent(stubborn=end == "force")
        run, _ = await running(manager, "t", agent)
        before = await shown(run.run_id, env)
        assert before["ended_by"] is None
        if end == "itself":
            agent.may_end.set()
        elif end != "dead worker":
            await manager.cancel(run.run_id)
        else:
            await orphaned(manager)
        await wait_until(lambda: settled(manager, run.run_id), description="it is settled")
        assert (await shown(run.run_id, env))["ended_by"] == end
        text = (await cli("runs", "show", run.run_id, env=env)).out
        words = {"dead worker": "other workers: its worker died"}.get(end, end)
        assert any(line.startswith("ended by") and words in line for line in text.splitlines())
        agent.may_stop.set()
        await agent.stopped.wait()


@pytest.mark.parametrize("command", [("runs", "show"), ("explain",)], ids=" ".join)
async def test_run_that_does_not_stop_is_shown_with_its_worker(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    env = {"COORDINATOR_STORE": f"sqlite:///{tmp_path / 'runs.db'}"}
    async with team_of(1, tmp_path, force_after=60) as (manager,):
        agent = Agent(stubborn=True)
        run, _ = await running(manager, "t", agent)
        assert "has not stopped" not in (await cli(*command, run.run_id, env=env)).out
        await manager.cancel(run.run_id)
        await agent.cancelled.wait()
        text = " ".join((await cli(*command, run.run_id, env=env)).out.split())
        [worker] = (await cli("workers", "list", "--json", env=env)).document["workers"]
        header, line, *_ = (await cli("workers", "list", env=env)).out.splitlines()
        agent.may_stop.set()
        await manager.wait(run.run_id)
    assert re.search(
        rf"cancelled \S+ m?s ago: its task has not stopped, on worker epoch {worker['epoch']}\b", text
    )
    assert (worker["holding"], worker["stopping"]) == (1, 1)
    assert line[header.index("STOPPING") :].split()[0] == "1"


async def test_explain_names_the_worker_on_which_a_forced_run_may_still_execute(tmp_path: Path) -> None:
    env = {"COORDINATOR_STORE": f"sqlite:///{tmp_path / 'runs.db'}"}
    async with team_of(1, tmp_path, force_after=0.2) as (manager,):
        agent = Agent(stubborn=True)
        run, _ = await running(manager, "t", agent)
        await manager.cancel(run.run_id, wait=10)
        text = " ".join((await cli("explain", run.run_id, env=env)).out.split())
        assert f"its task did not stop and may still execute on worker epoch {manager.worker.epoch}" in text
        agent.may_stop.set()
        await agent.stopped.wait()


@pytest.mark.parametrize("action", ["interrupt", "rollback"])
async def test_cancelled_run_whose_worker_is_declared_dead_names_that(tmp_path: Path, action: Any) -> None:
    env = {"COORDINATOR_STORE": f"sqlite:///{tmp_path / 'runs.db'}", "COLUMNS": "200"}
    async with team_of(1, tmp_path, force_after=60) as (manager,):
        agent = Agent(stubborn=True)
        run, _ = await running(manager, "t", agent)
        epoch = manager.worker.epoch
        await manager.cancel(run.run_id, action=action)
        await agent.cancelled.wait()
        async with team_of(1, tmp_path) as (peer,):
            await manager.store.declare_dead(epoch, by=peer.worker.epoch, actor="alice")
            await peer.reconcile_orphaned_inflight_runs(error="the worker is dead")
            await wait_until(lambda: settled(peer, run.run_id), description="it is settled")
        assert (await shown(run.run_id, env))["ended_by"] == "dead worker"
        [line] = lines_of(await cli("runs", "show", run.run_id, env=env), "ended by")
        assert line.endswith("other workers, after a cancel: its worker died or lost its lease")
        history = await cli("explain", run.run_id, env=env)
        agent.may_stop.set()
        await agent.stopped.wait()
    dead = f"worker epoch {epoch} is dead"
    if action == "interrupt":
        [line] = lines_of(history, "thread free")
        assert dead in line
        assert lines_of(history, "rollback:") == []
    else:
        [line] = lines_of(history, "adopted")
        assert dead in line
        assert lines_of(history, "rollback:") == ["rollback: done"]


async def test_explain_names_the_state_of_a_rollback(tmp_path: Path) -> None:
    env = {"COORDINATOR_STORE": f"sqlite:///{tmp_path / 'runs.db'}"}
    async with team_of(1, tmp_path) as (manager,):
        run, _ = await running(manager, "t", Agent())
        await manager.cancel(run.run_id, action="rollback", wait=10)
        assert lines_of(await cli("explain", run.run_id, env=env), "rollback:") == ["rollback: done"]
        assert (await shown(run.run_id, env))["ended_by"] == "cancel"


async def test_rollback_that_had_to_be_forced_was_ended_by_force(tmp_path: Path) -> None:
    env = {"COORDINATOR_STORE": f"sqlite:///{tmp_path / 'runs.db'}"}
    async with team_of(1, tmp_path, force_after=0.2) as (manager,):
        agent = Agent(stubborn=True)
        run, _ = await running(manager, "t", agent)
        await manager.cancel(run.run_id, action="rollback", wait=10)
        assert (await shown(run.run_id, env))["ended_by"] == "force"
        agent.may_stop.set()
        await agent.stopped.wait()


def lines_of(answer: Answer, word: str) -> list[str]:
    return [line for line in map(str.rstrip, answer.out.splitlines()) if word in line]


async def orphaned(manager: RunManager) -> None:
    """Declares the worker dead and sweeps, as an operator with `reconcile --force`."""
    epoch = manager.worker.epoch
    await manager.store.declare_dead(epoch, by=epoch, actor="alice")
    await manager.store.sweep(by=epoch, error="the worker is dead")


async def settled(manager: RunManager, run_id: str) -> bool:
    row = await manager.store.row(run_id)
    return row is not None and row.settled_at is not None


async def shown(run_id: str, env: dict[str, str]) -> dict[str, Any]:
    answer = await cli("runs", "show", run_id, "--json", env=env)
    assert answer.code == DONE, answer.err
    return answer.document["run"]
