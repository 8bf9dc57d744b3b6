"""A thread belongs to its first user. Threads and runs of other users look as if they did not exist."""

from __future__ import annotations

import pytest

from coordinator import RunManager, RunNotFound, RunStatus, ThreadNotFound
from tests.support.agents import running

ANYWHERE = pytest.mark.parametrize("asker", [0, 1], ids=["owner", "other worker"])


@ANYWHERE
async def test_thread_of_another_user_is_not_found(team: list[RunManager], asker: int) -> None:
    await running(team[0], "t", user_id="u1")
    manager = team[asker]
    for refused in (
        manager.create_or_reject("t", user_id="u2", multitask_strategy="interrupt"),
        manager.threads.replace_values("t", {}, user_id="u2"),
        manager.threads.copy("t", "mine", user_id="u2"),
        manager.threads.get("t", user_id="u2"),
        manager.threads.get("unknown"),
        manager.threads.delete("t", user_id="u2"),
    ):
        with pytest.raises(ThreadNotFound):
            await refused


@ANYWHERE
async def test_run_of_another_user_is_not_found(team: list[RunManager], asker: int) -> None:
    run, agent = await running(team[0], "t", user_id="u1")
    manager = team[asker]
    assert await manager.get(run.run_id, user_id="u2") is None
    assert not await manager.cancel(run.run_id, user_id="u2")
    assert await manager.list_by_thread("t", user_id="u2") == []
    for refused in (
        manager.wait(run.run_id, user_id="u2"),
        manager.runs.explain(run.run_id, user_id="u2"),
        manager.runs.receipt(run.run_id, user_id="u2"),
    ):
        with pytest.raises(RunNotFound):
            await refused
    assert agent.running


@ANYWHERE
async def test_user_can_use_its_own_thread_and_runs(team: list[RunManager], asker: int) -> None:
    run, _ = await running(team[0], "t", user_id="u1")
    manager = team[asker]
    record = await manager.get(run.run_id, user_id="u1")
    assert record is not None
    assert record.run_id == run.run_id
    assert await manager.cancel(run.run_id, user_id="u1", wait=5)
    assert run.status is RunStatus.interrupted


@ANYWHERE
async def test_call_without_user_sees_everything(team: list[RunManager], asker: int) -> None:
    """No user given: system scope, as existing callers have it."""
    run, _ = await running(team[0], "t", user_id="u1")
    assert await team[asker].get(run.run_id) is not None
    assert await team[asker].cancel(run.run_id, wait=5)
