"""A client that disconnects does not cancel the run, unless the run was admitted with that mode. Reported
failure 33."""

from __future__ import annotations

import pytest

from coordinator import DisconnectMode, RunManager, RunStatus
from tests.support.agents import Agent, launched, quick, running

ANYWHERE = pytest.mark.parametrize("receiver", [0, 1], ids=["owner", "other worker"])


@ANYWHERE
async def test_disconnect_leaves_a_run_with_continue_running(team: list[RunManager], receiver: int) -> None:
    run, agent = await running(team[0], "t", Agent(returns=1), on_disconnect="continue")
    assert not await team[receiver].disconnected(run.run_id)
    assert agent.running
    agent.may_end.set()
    assert await team[1].wait(run.run_id, timeout=20) == 1


@ANYWHERE
async def test_disconnect_cancels_a_run_with_cancel(team: list[RunManager], receiver: int) -> None:
    run, agent = await running(team[0], "t", on_disconnect=DisconnectMode.cancel)
    for _ in range(2):
        assert await team[receiver].disconnected(run.run_id)
    assert await team[1].wait(run.run_id, timeout=20) is None
    assert agent.cancels == 1
    assert run.status is RunStatus.interrupted
    assert (await team[1].runs.receipt(run.run_id)).cause == "disconnect"
    assert await team[receiver].disconnected(run.run_id), "also after its end"


@ANYWHERE
async def test_disconnect_cancels_a_queued_run(team: list[RunManager], receiver: int) -> None:
    await running(team[1], "t")
    run, agent = await launched(team[0], "t", multitask_strategy="enqueue")
    assert await team[receiver].disconnected(run.run_id)
    assert await team[0].wait(run.run_id, timeout=20) is None
    assert not agent.started.is_set()


@ANYWHERE
async def test_disconnect_does_not_change_a_finished_run(team: list[RunManager], receiver: int) -> None:
    run = await team[0].create_or_reject("t")
    team[0].launch(run, quick)
    await team[0].wait(run.run_id, timeout=20)
    assert not await team[receiver].disconnected(run.run_id)
    assert run.status is RunStatus.success


@ANYWHERE
async def test_disconnect_of_an_unknown_or_foreign_run_has_no_effect(
    team: list[RunManager], receiver: int
) -> None:
    run, agent = await running(team[0], "t", user_id="u")
    assert not await team[receiver].disconnected("no such run")
    assert not await team[receiver].disconnected(run.run_id, user_id="v")
    assert agent.running
