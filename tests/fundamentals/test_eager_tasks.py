"""An event loop may start tasks at once, as with `asyncio.eager_task_factory` (Python 3.12): the coordinator
has registered each task before it begins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from coordinator import ConflictError, End, RunContext, RunFailed, RunManager
from tests.support.agents import quick, running
from tests.support.factories import FACTORIES, use
from tests.support.teams import on_every_store


@pytest.fixture(params=FACTORIES, autouse=True)
async def factory(request: pytest.FixtureRequest) -> AsyncGenerator[None]:
    with use(request.param):
        yield


async def emits(ctx: RunContext) -> str:
    for number in range(3):
        await ctx.emit("custom", number)
        await asyncio.sleep(0)
    return "done"


async def fails(ctx: RunContext) -> None:
    raise ValueError("no")


async def followed(manager: RunManager, run_id: str) -> list[Any]:
    async with asyncio.timeout(20):
        return [event async for event in manager.follow(run_id)]


@on_every_store
async def test_eagerly_started_run_can_be_followed(team: list[RunManager]) -> None:
    a, b = team
    run = await a.create_or_reject("t")
    a.launch(run, emits)
    local, remote = await asyncio.gather(followed(a, run.run_id), followed(b, run.run_id))
    assert [isinstance(event, End) for event in local] == [False, False, False, True]
    assert isinstance(remote[-1], End), "without Redis other workers receive only the end"


@on_every_store
async def test_busy_thread_refuses_each_eager_admission(team: list[RunManager]) -> None:
    a, b = team
    run, _ = await running(a, "t")
    for manager in (a, b, a, b):
        with pytest.raises(ConflictError):
            await manager.create_or_reject("t")
    assert await b.cancel(run.run_id, wait=20)
    again = await a.create_or_reject("t")
    a.launch(again, quick)
    assert await b.wait(again.run_id, timeout=20)


async def test_eagerly_finished_run_has_its_task_and_its_end(alone: RunManager) -> None:
    run, seen = await alone.create_or_reject("t"), list[Any]()

    async def agent(ctx: RunContext) -> str:
        seen.append(ctx.run.task)
        return "done"

    task = alone.launch(run, agent)
    assert seen == [], "it begins in a later turn of the loop"
    assert await alone.wait(run.run_id, timeout=20) == "done"
    assert seen == [task]


async def test_eagerly_failed_run_ends_as_error(alone: RunManager) -> None:
    run = await alone.create_or_reject("t")
    alone.launch(run, fails)
    with pytest.raises(RunFailed):
        await alone.wait(run.run_id, timeout=20)
