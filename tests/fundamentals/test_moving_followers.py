"""A follower that moves from the owner of its run to another worker. The owner's followers read its memory;
the log in the store, which all others read, is written a little later."""

from __future__ import annotations

import asyncio

import pytest

from coordinator import Event, Gap, RunManager
from tests.fundamentals.test_streams import all_of, end_of, numbers
from tests.support.agents import running

MOVES = 5


@pytest.mark.parametrize("team", ["store only", "postgres"], indirect=True)
async def test_follower_ahead_of_the_log_waits_for_it(
    team: list[RunManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.event_logs.store.LAZY", 0.5)
    owner, other = team[0], team[1]
    run, agent = await running(owner, "t")
    await agent.ctx.emit("custom", 0)
    after = None
    for move in range(1, MOVES):
        async with owner.follow(run.run_id, after=after) as local:
            async for event in local:
                assert isinstance(event, Event), event
                after = str(event.id)
                if event.data == 2 * move - 2:
                    break
        async with other.follow(run.run_id, after=after) as there:
            arriving = asyncio.ensure_future(anext(there))
            await agent.ctx.emit("custom", 2 * move - 1)
            event = await arriving
            assert isinstance(event, Event), event
            assert event.data == 2 * move - 1
            after = str(event.id)
        await agent.ctx.emit("custom", 2 * move)
    agent.may_end.set()
    rest = await all_of(other.follow(run.run_id, after=after))
    assert numbers(rest) == [2 * MOVES - 2]
    assert end_of(rest).complete


@pytest.mark.parametrize("team", ["store only"], indirect=True)
async def test_event_that_never_arrives_is_a_gap(team: list[RunManager]) -> None:
    """In place of the wait for it."""
    owner, other = team[0], team[1]
    run, agent = await running(owner, "t")
    await agent.ctx.emit("custom", 0)
    async with other.follow(run.run_id, after=f"{agent.ctx.fence}-50") as there:
        assert isinstance(await anext(there), Gap)
        await agent.ctx.emit("custom", 1)
        event = await anext(there)
        assert isinstance(event, Event)
        assert event.data in (0, 1)
    agent.may_end.set()
    await owner.wait(run.run_id)
