"""The same key is the same run, on every worker; the same key with another body is a mistake."""

from __future__ import annotations

import pytest

from coordinator import IdempotencyConflict, InvalidArgument, RunManager
from tests.support.agents import Agent, quick, running

ANYWHERE = pytest.mark.parametrize("second", [0, 1], ids=["same worker", "other worker"])


@ANYWHERE
async def test_a_repeated_request_gets_the_run_that_is_there(team: list[RunManager], second: int) -> None:
    """Also while it holds the thread: a repetition is no conflict."""
    run, _ = await running(team[0], "t", idempotency_key="k", kwargs={"q": 1})
    again = await team[second].create_or_reject("t", idempotency_key="k", kwargs={"q": 1})
    assert again.run_id == run.run_id
    assert again.already_admitted
    assert not run.already_admitted


@ANYWHERE
async def test_it_does_not_execute_twice(team: list[RunManager], second: int) -> None:
    await team[0].create_or_reject("t", idempotency_key="k")
    again = await team[second].create_or_reject("t", idempotency_key="k")
    with pytest.raises(InvalidArgument):
        team[second].launch(again, quick)


@ANYWHERE
async def test_also_after_the_run_has_ended(team: list[RunManager], second: int) -> None:
    run, agent = await running(team[0], "t", Agent(returns=1), idempotency_key="k")
    agent.may_end.set()
    await team[0].wait(run.run_id, timeout=20)
    again = await team[second].create_or_reject("t", idempotency_key="k", multitask_strategy="reject")
    assert again.run_id == run.run_id
    assert not await team[0].has_inflight("t")


@ANYWHERE
async def test_another_body_under_the_same_key(team: list[RunManager], second: int) -> None:
    await team[0].create_or_reject("t", idempotency_key="k", kwargs={"q": 1})
    with pytest.raises(IdempotencyConflict):
        await team[second].create_or_reject("t", idempotency_key="k", kwargs={"q": 2})


@ANYWHERE
async def test_another_thread_under_the_same_key(team: list[RunManager], second: int) -> None:
    await team[0].create_or_reject("t", idempotency_key="k")
    with pytest.raises(IdempotencyConflict):
        await team[second].create_or_reject("another", idempotency_key="k")
