"""A cancelled run may save once more. A rollback discards that save, too."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from coordinator import CancelAction, Cause, RunContext, RunManager, RunRecord, RunStatus, StaleFence
from tests.support.teams import on_every_store
from tests.support.waiting import wait_until

pytestmark = on_every_store


class Talker:
    """Has unsaved words, and saves them when it is cancelled. `then`: its behaviour after the cancel."""

    def __init__(self, then: str = "raises") -> None:
        self.then = then
        self.ready = asyncio.Event()
        self.go_on = asyncio.Event()
        self.refused: list[str] = []
        self.stops = 0
        self.task: asyncio.Task[Any] | None = None

    async def save(self, ctx: RunContext, values: Any) -> None:
        try:
            await ctx.save(values)
        except StaleFence as error:
            self.refused.append(type(error).__name__)

    async def __call__(self, ctx: RunContext) -> Any:
        self.task = asyncio.current_task()
        await ctx.save({"words": ["one"]})
        try:
            self.ready.set()
            await self.go_on.wait()
            await ctx.save({"words": ["one", "two"]})
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.stops += 1
            if self.then == "returns":
                return {"words": ["one", "two", "stopped"]}
            if self.then == "is late":
                with suppress(asyncio.CancelledError):
                    await asyncio.Event().wait()
            await self.save(ctx, {"words": ["one", "two", "stopped"]})
            if self.then == "saves twice":
                await self.save(ctx, {"words": ["and", "on"]})
            raise


async def begun(manager: RunManager, then: str = "raises", **admission: Any) -> tuple[RunRecord, Talker]:
    agent = Talker(then)
    run = await manager.create_or_reject("t", **admission)
    manager.launch(run, agent)
    await agent.ready.wait()
    return run, agent


async def words(manager: RunManager) -> Any:
    thread = await manager.threads.get("t")
    values: Any = thread.values
    return None if values is None else values["words"]


async def steps(manager: RunManager, run: RunRecord) -> list[str]:
    return [step.what for step in (await manager.runs.explain(run.run_id)).transitions]


STOPPED = ["one", "two", "stopped"]


@pytest.mark.parametrize("second", [0, 1], ids=["same worker", "other worker"])
async def test_cancelled_run_keeps_its_last_save(team: list[RunManager], second: int) -> None:
    run, agent = await begun(team[0])
    assert await team[second].cancel(run.run_id, wait=10)
    assert await words(team[1]) == STOPPED
    assert (run.status, agent.stops, agent.refused) == (RunStatus.interrupted, 1, [])
    assert await steps(team[1], run) == ["admitted", "started", "decided", "saved", "settled"]


async def test_cancelled_run_may_save_only_once(team: list[RunManager]) -> None:
    run, agent = await begun(team[0], "saves twice")
    assert await team[1].cancel(run.run_id, wait=10)
    assert await words(team[1]) == STOPPED
    assert agent.refused == ["StaleFence"]


@pytest.mark.parametrize("then", ["raises", "returns"])
async def test_rollback_discards_the_last_save(team: list[RunManager], then: str) -> None:
    run, agent = await begun(team[0], then)
    assert await team[1].cancel(run.run_id, action=CancelAction.rollback, wait=10)
    assert await words(team[1]) is None
    assert agent.refused == (["StaleFence"] if then == "raises" else [])


async def test_timed_out_run_may_save_once(team: list[RunManager]) -> None:
    run, _ = await begun(team[0], timeout=0.3)
    await wait_until(lambda: run.status is RunStatus.timeout, description="its time is over")
    assert await team[1].cancel(run.run_id, wait=10) is False
    await wait_until(lambda: run.task is None or run.task.done(), description="its task is over")

    async def kept() -> bool:
        return await words(team[1]) == STOPPED

    await wait_until(kept, description="its last save is there")


async def test_next_run_begins_with_the_last_save(team: list[RunManager]) -> None:
    async def next_one(ctx: RunContext) -> Any:
        return {"words": ctx.values["words"], "after": True}

    await begun(team[0])
    run = await team[1].create_or_reject("t", multitask_strategy="interrupt")
    team[1].launch(run, next_one)
    assert await team[1].wait(run.run_id, timeout=10) == {"words": STOPPED, "after": True}


@pytest.mark.parametrize("second", [0, 1], ids=["same worker", "other worker"])
async def test_values_returned_after_the_cancel_are_saved(team: list[RunManager], second: int) -> None:
    run, agent = await begun(team[0], "returns")
    assert await team[second].cancel(run.run_id, wait=10)
    assert await words(team[1]) == STOPPED
    assert (run.status, agent.stops) == (RunStatus.interrupted, 1)
    assert await team[1].wait(run.run_id, timeout=10) is None, "the decision stands"


async def test_forced_run_may_not_save(team: list[RunManager]) -> None:
    run, agent = await begun(team[0], "is late")
    assert await team[1].cancel(run.run_id, wait=10)
    assert "fenced" in await steps(team[1], run)
    task = agent.task
    assert task is not None
    task.cancel()
    await asyncio.wait((task,))
    assert agent.refused == ["StaleFence"]
    assert await words(team[1]) == ["one"]


async def test_save_that_meets_the_decision_cancels_the_task(team: list[RunManager]) -> None:
    """No hint has arrived: the code is cancelled in that very call, and saves for the last time."""
    run, agent = await begun(team[0])
    decision = await team[0].store.decide(
        run.run_id, RunStatus.interrupted, action=CancelAction.interrupt, cause=Cause.user
    )
    assert decision is not None
    assert decision.won
    agent.go_on.set()
    await team[0].wait(run.run_id, timeout=10)
    assert (agent.stops, agent.refused) == (1, [])
    assert await words(team[1]) == STOPPED
