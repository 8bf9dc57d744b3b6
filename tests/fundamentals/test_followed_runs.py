"""Followers of a run of this worker do not read the store before its end, unless it is lost or dropped.
Followers of one run share their reads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from coordinator import End, Event, Gap, RunContext, RunManager, RunStatus
from coordinator.errors import RunNotFound, StoreUnavailable
from coordinator.event_logs.local import LocalEventLog
from coordinator.events.followed import FollowedRun
from coordinator.events.follower import Follower
from coordinator.events.pages import Pages
from coordinator.events.standing import Settled, Standing
from coordinator.notifiers.local import LocalHub
from coordinator.runs.jobs import Jobs
from stores.rows import Outcome
from tests.fundamentals.test_drain import portable
from tests.support.agents import Agent, running
from tests.support.inside import assembly_of, is_waiting, poll_every
from tests.support.teams import on_every_store
from tests.support.waiting import wait_until

Item = Event | Gap | End
QUIET_TICKS = 5


def counted(of: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Returns the list to which each call of `of.name` is added."""
    call, calls = getattr(of, name), list[str]()

    def counting(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        return call(*args, **kwargs)

    monkeypatch.setattr(of, name, counting)
    return calls


def lost(*args: object) -> None:
    """In place of a hint."""


async def end_of(followed: AsyncIterator[Item]) -> End:
    async with asyncio.timeout(20):
        items = [item async for item in followed]
    assert isinstance(items[-1], End)
    return items[-1]


async def ending(followed: Follower) -> asyncio.Task[End]:
    """Returns a task that ends with the run. It waits for the run already."""
    task = asyncio.create_task(end_of(followed))
    await wait_until(lambda: is_waiting(followed), description="the follower waits")
    return task


@pytest.mark.parametrize("emits", [True, False])
async def test_follower_of_a_run_of_its_worker_reads_nothing_at_ticks(
    alone: RunManager, monkeypatch: pytest.MonkeyPatch, *, emits: bool
) -> None:
    run, agent = await running(alone, "t")
    following = await ending(alone.follow(run.run_id))
    if emits:
        await agent.ctx.emit("custom", 1)
    ticks = counted(FollowedRun, "check", monkeypatch)
    await wait_until(lambda: ticks, description="a tick")
    rows = counted(alone.store, "row", monkeypatch)
    events = counted(alone.store, "events", monkeypatch)
    ticks.clear()
    await wait_until(lambda: len(ticks) >= QUIET_TICKS, description="ticks")
    assert (rows, events) == ([], [])
    agent.may_end.set()
    assert (await following).complete


async def test_end_of_a_run_wakes_its_followers_on_its_worker_without_notifier(
    alone: RunManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, agent = await running(alone, "t")
    poll_every(alone.follow(run.run_id), 60.0)
    tasks = [await ending(alone.follow(run.run_id)) for _ in range(3)]
    monkeypatch.setattr(LocalHub, "notify_thread", lost)
    agent.may_end.set()
    async with asyncio.timeout(10):
        ends = await asyncio.gather(*tasks)
    assert [end.status for end in ends] == [RunStatus.success] * 3


async def test_followers_of_a_lost_run_read_the_row_although_its_task_still_runs(alone: RunManager) -> None:
    run, agent = await running(alone, "t", Agent(stubborn=True))
    following = await ending(alone.follow(run.run_id))
    parts = assembly_of(alone)
    entry = parts.shared.registry.entry(run.run_id)
    assert entry is not None
    own = entry.own
    assert own is not None
    parts.runs.settlement.lose(entry, "another worker has ended it")
    await alone.store.finish(own, Outcome(RunStatus.error, "its worker died"))
    end = await following
    assert (end.status, end.error) == (RunStatus.error, "its worker died")
    assert agent.running
    agent.may_stop.set()


@on_every_store
async def test_followers_of_a_run_that_was_handed_over_receive_its_end(team: list[RunManager]) -> None:
    a, b = team
    await running(b, "t")
    run, _ = await portable(a, "t")
    following = await ending(a.follow(run.run_id))
    await a.worker.drain(grace=30)
    assert not following.done()
    await b.cancel(run.run_id)
    assert (await following).status is RunStatus.interrupted


async def test_followers_of_a_dropped_run_read_the_row(alone: RunManager) -> None:
    """Dropped before it settled: its task still runs, and its row is removed meanwhile."""
    run, agent = await running(alone, "t")
    following = await ending(alone.follow(run.run_id))
    assembly_of(alone).shared.registry.drop(run.run_id)

    async def removed(*args: Any, **kwargs: Any) -> None:
        del args, kwargs

    alone.store.row = removed
    alone.store.get = removed
    with pytest.raises(RunNotFound):
        await following
    assert agent.running


async def test_event_whose_hint_was_lost_arrives_with_the_tick(
    alone: RunManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, agent = await running(alone, "t")
    async with alone.follow(run.run_id) as followed:
        await agent.ctx.emit("custom", 1)
        assert isinstance(await anext(followed), Event)
        waiting = asyncio.ensure_future(anext(followed))
        await asyncio.sleep(0)
        monkeypatch.setattr(assembly_of(alone).shared.notifier, "hint", lost)
        await agent.ctx.emit("custom", 2)
        async with asyncio.timeout(10):
            event = await waiting
    assert isinstance(event, Event)
    assert event.data == 2


async def test_tick_wakes_a_follower_that_came_after_all_others_had_left(
    alone: RunManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, agent = await running(alone, "t")
    async with alone.follow(run.run_id) as earlier:
        assert await earlier.batch(0.01) == []
    async with alone.follow(run.run_id) as followed:
        waiting = asyncio.ensure_future(anext(followed))
        await wait_until(lambda: is_waiting(followed), description="the follower waits")
        monkeypatch.setattr(assembly_of(alone).shared.notifier, "hint", lost)
        await agent.ctx.emit("custom", 1)
        async with asyncio.timeout(10):
            assert isinstance(await waiting, Event)


async def test_long_log_in_memory_does_not_block_the_loop(alone: RunManager) -> None:
    async def agent(ctx: RunContext) -> None:
        for number in range(2_000):
            await ctx.emit("custom", number)

    run = await alone.create_or_reject("t")
    await alone.launch(run, agent)
    turns = 0

    async def turning() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with alone.follow(run.run_id) as followed:
        other = asyncio.create_task(turning())
        for _ in range(1_500):
            assert isinstance(await anext(followed), Event)
        other.cancel()
    assert turns >= 4, "a turn for each page"


async def test_batch_has_all_items_that_wait_and_then_the_end(alone: RunManager) -> None:
    run, agent = await running(alone, "t")
    async with alone.follow(run.run_id) as followed:
        assert await followed.batch(0.01) == []
        for number in range(3):
            await agent.ctx.emit("custom", number)
        assert [item.data for item in await followed.batch() if isinstance(item, Event)] == [0, 1, 2]
        agent.may_end.set()
        (end,) = await followed.batch(20)
        assert isinstance(end, End)
        with pytest.raises(StopAsyncIteration):
            await followed.batch()


@pytest.mark.parametrize("team", ["store only"], indirect=True)
async def test_batch_returns_in_time_although_the_row_cannot_be_read(
    team: list[RunManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = await running(team[0], "t")
    async with team[1].follow(run.run_id) as followed:
        forever = asyncio.Event()

        async def hanging(*args: Any, **kwargs: Any) -> None:
            del args, kwargs
            await forever.wait()

        monkeypatch.setattr(team[1].store, "row", hanging)
        async with asyncio.timeout(10):
            for _ in range(3):
                assert await followed.batch(0.15) == []


# ---- shared reads of the row ---------------------------------------------------------------------------


class Rows:
    """The row of a run, read when the test allows it."""

    def __init__(self) -> None:
        self.reads = 0
        self.go = asyncio.Event()
        self.answer: Standing | Exception = Standing("t", "ann", None)

    async def __call__(self, run_id: str) -> Standing:
        self.reads += 1
        answer = self.answer
        await self.go.wait()
        if isinstance(answer, Exception):
            raise answer
        return answer


class Absent:
    """A worker that does not have the run."""

    def entry(self, run_id: str) -> None: ...
    def appended(self, run_id: str) -> None: ...


class Bell:
    def __init__(self) -> None:
        self.rung = False

    def set(self) -> None:
        self.rung = True

    async def wait(self, timeout: float) -> bool:
        del timeout
        return self.rung


def followed_run(rows: Any) -> FollowedRun:
    local: Any = Absent()
    return FollowedRun("r", local, rows, Pages(LocalEventLog(), Jobs(), "t", "r", 10))


async def test_followers_of_one_run_share_a_read_of_its_row() -> None:
    rows = Rows()
    run = followed_run(rows)
    tasks = [asyncio.create_task(run.standing(None, since=0.0)) for _ in range(20)]
    await wait_until(lambda: rows.reads, description="the row is read")
    rows.go.set()
    assert len(set(await asyncio.gather(*tasks))) == 1
    await run.standing("ann", since=0.0)  # a tick in the same pause
    assert rows.reads == 1


async def test_follower_that_was_woken_does_not_take_an_older_answer() -> None:
    """The read began before the run had settled."""
    rows = Rows()
    run = followed_run(rows)
    tick = asyncio.create_task(run.standing(None, since=0.0))
    await wait_until(lambda: rows.reads, description="the row is read")
    rows.answer = Standing("t", None, Settled(RunStatus.success, None, None, started=True, at=1.0))
    woken = asyncio.create_task(run.standing(None, since=time.monotonic()))
    rows.go.set()
    assert (await tick).settled is None
    assert (await woken).settled is not None
    assert rows.reads == 2


async def test_end_that_one_follower_reads_wakes_the_others() -> None:
    rows, bell = Rows(), Bell()
    rows.go.set()
    run = followed_run(rows)
    run.join(bell)
    await run.standing(None, since=0.0)
    assert not bell.rung
    rows.answer = Standing("t", None, Settled(RunStatus.success, None, None, started=True, at=1.0))
    await run.standing(None, since=time.monotonic())
    assert bell.rung


async def test_error_of_a_shared_read_reaches_each_follower() -> None:
    rows = Rows()
    rows.answer = StoreUnavailable("away")
    run = followed_run(rows)
    tasks = [asyncio.create_task(run.standing(None, since=0.0)) for _ in range(3)]
    rows.go.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(answer) for answer in answers] == [StoreUnavailable] * 3
    assert rows.reads == 1


async def test_cancelled_follower_does_not_end_the_read_of_the_others() -> None:
    rows = Rows()
    run = followed_run(rows)
    first, second = (asyncio.create_task(run.standing(None, since=0.0)) for _ in range(2))
    await wait_until(lambda: rows.reads, description="the row is read")
    first.cancel()
    await asyncio.wait([first])
    rows.go.set()
    assert (await second).thread_id == "t"


async def test_row_of_another_user_is_unknown_to_a_follower() -> None:
    rows = Rows()
    rows.go.set()
    run = followed_run(rows)
    assert await run.standing(None, since=0.0)
    with pytest.raises(RunNotFound):
        await run.standing("bob", since=0.0)
