"""`wait` answers when the run has settled, on the worker that has it and on any other."""

from __future__ import annotations

import asyncio

import pytest

from coordinator import RunFailed, RunManager, RunNotFound
from tests.support.agents import Agent, quick, running
from tests.support.teams import on_every_store

pytestmark = on_every_store

ANYWHERE = pytest.mark.parametrize("asker", [0, 1], ids=["owner", "other worker"])


@ANYWHERE
async def test_the_result(team: list[RunManager], asker: int) -> None:
    run, agent = await running(team[0], "t", Agent(returns={"answer": 42}))
    asking = asyncio.create_task(team[asker].wait(run.run_id, timeout=20))
    agent.may_end.set()
    assert await asking == {"answer": 42}


@ANYWHERE
async def test_a_run_that_was_over_long_ago(team: list[RunManager], asker: int) -> None:
    run = await team[0].create_or_reject("t")
    team[0].launch(run, quick)
    await team[0].wait(run.run_id, timeout=20)
    assert await team[asker].wait(run.run_id) == f"done {run.run_id}"


@ANYWHERE
async def test_a_run_that_failed(team: list[RunManager], asker: int) -> None:
    run = await team[0].create_or_reject("t")

    async def failing(ctx: object) -> None:
        raise RuntimeError("no model")

    team[0].launch(run, failing)
    with pytest.raises(RunFailed, match="RuntimeError: no model"):
        await team[asker].wait(run.run_id, timeout=20)


@ANYWHERE
async def test_time_out(team: list[RunManager], asker: int) -> None:
    run, _ = await running(team[0], "t")
    with pytest.raises(TimeoutError):
        await team[asker].wait(run.run_id, timeout=0.1)


async def test_an_unknown_run(team: list[RunManager]) -> None:
    with pytest.raises(RunNotFound):
        await team[0].wait("no such run")


async def test_a_result_that_json_cannot_hold_is_an_error_that_says_so(team: list[RunManager]) -> None:
    run = await team[0].create_or_reject("t")

    async def odd(ctx: object) -> object:
        return object()

    team[0].launch(run, odd)
    with pytest.raises(RunFailed, match="cannot be stored as JSON"):
        await team[1].wait(run.run_id, timeout=20)
    assert not await team[1].has_inflight("t")
