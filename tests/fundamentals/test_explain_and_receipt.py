"""The history of a run with its times: written by the store, readable on every worker."""

from __future__ import annotations

import pytest

from coordinator import Phase, RunManager, RunNotFound
from tests.support.agents import Agent, launched, running


async def test_explain_lists_every_transition(team: list[RunManager]) -> None:
    a, b = team
    run, _ = await running(a, "t")
    await b.cancel(run.run_id, reason="enough", actor="u1", wait=5)
    explained = await b.runs.explain(run.run_id)
    assert [step.what for step in explained.transitions] == ["admitted", "started", "decided", "settled"]
    decided = explained.transitions[2]
    assert (decided.cause, decided.actor, decided.detail) == ("user", "u1", "enough")
    assert {step.epoch for step in explained.transitions} == {a.worker.epoch}
    assert explained.phase is Phase.done


async def test_explain_names_the_run_that_is_waited_for(team: list[RunManager]) -> None:
    a, b = team
    holder, _ = await running(a, "t")
    run, _ = await launched(b, "t", multitask_strategy="enqueue")
    explained = await a.runs.explain(run.run_id)
    assert (explained.phase, explained.position, explained.holder) == (Phase.waiting, 1, holder.run_id)


async def test_receipt_has_the_four_times_of_a_cancel(team: list[RunManager]) -> None:
    a, b = team
    run, agent = await running(a, "t", Agent(stubborn=True))
    assert (await b.runs.receipt(run.run_id)).requested is None
    await b.cancel(run.run_id)
    await agent.cancelled.wait()
    on_its_way = await a.runs.receipt(run.run_id)
    assert on_its_way.phase is Phase.cancelling
    assert on_its_way.delivered is not None
    assert on_its_way.stopped is None
    agent.may_stop.set()
    await b.wait(run.run_id, timeout=20)
    done = await b.runs.receipt(run.run_id)
    times = [done.requested, done.delivered, done.stopped, done.settled]
    assert None not in times
    assert times == sorted(time for time in times if time is not None)


async def test_receipt_of_a_forced_run_has_no_stop_time(team: list[RunManager]) -> None:
    a, b = team
    run, agent = await running(a, "t", Agent(stubborn=True))
    await b.cancel(run.run_id, wait=5)
    receipt = await b.runs.receipt(run.run_id)
    assert receipt.settled is not None
    assert receipt.stopped is None
    agent.may_stop.set()
    await agent.stopped.wait()


async def test_explain_and_receipt_of_an_unknown_run_raise_run_not_found(team: list[RunManager]) -> None:
    for call in (team[0].runs.explain("no such run"), team[0].runs.receipt("no such run")):
        with pytest.raises(RunNotFound):
            await call
