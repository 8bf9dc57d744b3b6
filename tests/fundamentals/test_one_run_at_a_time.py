"""A thread has one slot. `reject` is the default: the second admission is refused with the holder's id."""

from __future__ import annotations

import asyncio

import pytest

from coordinator import ConflictError, RunManager, RunStatus
from tests.support.agents import quick, running
from tests.support.teams import on_every_store

pytestmark = on_every_store


@pytest.mark.parametrize("second", [0, 1], ids=["same worker", "other worker"])
async def test_busy_thread_refuses_and_names_the_holder(team: list[RunManager], second: int) -> None:
    run, _ = await running(team[0], "t")
    with pytest.raises(ConflictError) as refused:
        await team[second].create_or_reject("t")
    assert refused.value.active_run_id == run.run_id


async def test_busy_thread_does_not_affect_other_threads(team: list[RunManager]) -> None:
    await running(team[0], "t")
    await running(team[1], "another")


async def test_pending_run_holds_the_thread(team: list[RunManager]) -> None:
    await team[0].create_or_reject("t")
    with pytest.raises(ConflictError):
        await team[1].create_or_reject("t")


@pytest.mark.parametrize("second", [0, 1], ids=["same worker", "other worker"])
async def test_thread_is_free_when_its_run_has_ended(team: list[RunManager], second: int) -> None:
    run = await team[0].create_or_reject("t")
    team[0].launch(run, quick)
    await team[0].wait(run.run_id, timeout=20)
    again = await team[second].create_or_reject("t")
    assert again.status is RunStatus.pending


async def test_one_of_many_concurrent_admissions_wins(team: list[RunManager]) -> None:
    """Reported failure 9 (with real processes: tests/multiprocess)."""
    answers = await asyncio.gather(
        *(team[at % 2].create_or_reject("t") for at in range(20)), return_exceptions=True
    )
    refused = [answer for answer in answers if isinstance(answer, ConflictError)]
    assert len(refused) == 19


async def test_thread_is_busy_exactly_while_a_run_is_in_flight(team: list[RunManager]) -> None:
    """Reported failure 16."""
    a, b = team
    run, agent = await running(a, "t")
    for manager in team:
        assert await manager.has_inflight("t")
        thread = await manager.threads.get("t")
        assert thread.status == "busy"
    agent.may_end.set()
    await b.wait(run.run_id, timeout=20)
    for manager in team:
        assert not await manager.has_inflight("t")
        thread = await manager.threads.get("t")
        assert thread.status == "idle"
