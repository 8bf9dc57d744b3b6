"""The outcome of a run is decided once. The second decision is answered with the first."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from coordinator import RunManager, RunStatus
from stores.memory import MemoryStore
from stores.rows import Finish, Outcome, Ownership
from stores.states import CancelAction, Cause
from tests.support.agents import Agent, running
from tests.support.waiting import wait_until


async def test_success_does_not_overwrite_a_cancel(team: list[RunManager]) -> None:
    a, b = team
    run, agent = await running(a, "t", Agent(stubborn=True))
    assert await b.cancel(run.run_id)
    await agent.cancelled.wait()
    await a.set_status(run.run_id, RunStatus.success)
    agent.may_stop.set()
    await b.wait(run.run_id, timeout=20)
    assert (await b.runs.receipt(run.run_id)).status is RunStatus.interrupted


async def test_cancel_neither_overwrites_a_success_nor_stops_its_tracked_work(
    team: list[RunManager],
) -> None:
    """The task has reported success and still cleans up."""
    a, b = team
    run, agent = await running(a, "t")
    await a.set_status(run.run_id, RunStatus.success)
    assert not await a.cancel(run.run_id)
    assert not await b.cancel(run.run_id)
    assert not run.abort_event.is_set()
    agent.may_end.set()
    await b.wait(run.run_id, timeout=20)
    assert agent.cancels == 0
    assert run.status is RunStatus.success


@pytest.mark.settings(tick=3600.0, short_tick=3600.0)  # else a tick may read the decision of the peer
async def test_success_is_shown_when_it_is_committed(
    team: list[RunManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer has decided before, and this worker does not know it yet."""
    a, b = team
    run, agent = await running(a, "t")
    finish, shown = a.store.finish, list[RunStatus]()

    async def late(own: Ownership, outcome: Outcome, **options: Any) -> Finish:
        await b.store.decide(
            run.run_id, RunStatus.interrupted, action=CancelAction.interrupt, cause=Cause.user
        )
        assert await a.get(run.run_id) is run
        shown.append(run.status)
        return await finish(own, outcome, **options)

    monkeypatch.setattr(a.store, "finish", late)
    await a.set_status(run.run_id, RunStatus.success)
    assert shown == [RunStatus.running]
    assert run.status is RunStatus.interrupted
    await agent.cancelled.wait()
    assert await b.wait(run.run_id, timeout=20) is None


async def test_task_that_ends_before_its_success_is_written_keeps_it(
    team: list[RunManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, _ = team
    run = await a.create_or_reject("t")
    finish, over = a.store.finish, asyncio.Event()

    async def late(own: Ownership, outcome: Outcome, **options: Any) -> Finish:
        await over.wait()
        return await finish(own, outcome, **options)

    monkeypatch.setattr(a.store, "finish", late)
    may_end = asyncio.Event()

    async def task() -> None:
        await a.set_status(run.run_id, RunStatus.running)
        await may_end.wait()

    run.task = asyncio.create_task(task())
    await wait_until(lambda: run.status is RunStatus.running, description="it runs")
    telling = asyncio.create_task(a.set_status(run.run_id, RunStatus.success))
    await asyncio.sleep(0)
    may_end.set()
    await run.task
    over.set()
    await telling
    await a.wait(run.run_id, timeout=20)
    assert run.status is RunStatus.success
    assert not await a.has_inflight("t")


async def test_run_that_swallows_its_cancel_has_not_succeeded(team: list[RunManager]) -> None:
    a, b = team
    run, begun = await a.create_or_reject("t"), asyncio.Event()

    async def stubborn(ctx: object) -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "done anyway"
        return "never"

    a.launch(run, stubborn)
    await begun.wait()
    assert await b.cancel(run.run_id, wait=5)
    assert run.status is RunStatus.interrupted
    assert await b.wait(run.run_id) is None


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("untraced")
async def test_one_decision_wins_in_ten_thousand_interleavings() -> None:
    """Reported failure 6: an acknowledged cancel never ends as success, and the reverse."""
    dice, won = random.Random(4711), {RunStatus.success: 0, RunStatus.interrupted: 0}
    async with RunManager(MemoryStore()) as manager:

        async def one(thread: int) -> None:
            run = await manager.create_or_reject(f"t{thread}")

            async def agent(ctx: object) -> str:
                for _ in range(dice.randrange(4)):
                    await asyncio.sleep(0)
                return "done"

            manager.launch(run, agent)
            for _ in range(dice.randrange(8)):
                await asyncio.sleep(0)
            cancelled = await manager.cancel(run.run_id)
            result = await manager.wait(run.run_id)
            row = await manager.store.row(run.run_id)
            assert row is not None
            assert cancelled == (run.status is RunStatus.interrupted) == (result is None)
            assert row.status is run.status
            assert row.settled
            won[run.status] += 1

        for batch in range(100):
            await asyncio.gather(*(one(100 * batch + at) for at in range(100)))
    assert sum(won.values()) == 10_000
    assert min(won.values()) > 500, f"the dice are loaded: {won}"
