"""The row of a settled run has the number of the last entry of its log. Followers on other workers wait for a
log that is late, and report what never arrives as a gap; the end of a run without events is not delayed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from coordinator import End, Event, Gap, Outcome, RunContext, RunManager, RunStatus, assistant
from coordinator.event_log import Appended
from coordinator.event_logs.store import StoreEventLog
from coordinator.notifiers.wakeups import WakeupEvent
from tests.fundamentals.test_attempts import row_of
from tests.fundamentals.test_followed_runs import counted
from tests.fundamentals.test_portable_runs import LONG, gateway
from tests.fundamentals.test_streams import all_of, end_of, numbers, until_read
from tests.fundamentals.test_worker_death import SHORT, hang
from tests.support.agents import Agent, running
from tests.support.held import hold_calls
from tests.support.inside import assembly_of
from tests.support.teams import on_every_store, team_of

Release = Callable[[], Awaitable[None]]


def hold_log(owner: RunManager) -> Release:
    """Holds the writes of the owner's log back until the function that is returned is called."""
    shared = assembly_of(owner).shared
    log: Any = shared.event_log
    if isinstance(log, StoreEventLog):
        held = hold_calls(shared.store, "append_events")

        async def go_on() -> None:
            held.go_on.set()

        return go_on
    append, kept = log.append, list[Any]()

    def keep(*entry: Any) -> None:
        kept.append(entry)

    async def answer(*entry: Any) -> Appended:
        keep(*entry)
        return Appended.done

    async def send() -> None:
        for entry in kept:
            assert await append(*entry) is Appended.done

    log.append, log.close = answer, keep
    return send


def wait_for_logs(manager: RunManager, seconds: float) -> None:
    """In place of five seconds."""
    assembly_of(manager).runs.readers.patience = seconds


async def settled(owner: RunManager, other: RunManager, agent: Agent) -> None:
    agent.may_end.set()
    await other.wait(agent.ctx.run.run_id, timeout=10)


async def emit(agent: Agent, *values: int) -> None:
    for value in values:
        await agent.ctx.emit("custom", value)


async def settled_before_its_log(owner: RunManager, other: RunManager, agent: Agent, *values: int) -> Release:
    """Emits the values and settles the run. Its log is held back as by `hold_log`."""
    release = hold_log(owner)
    await emit(agent, *values)
    await settled(owner, other, agent)
    return release


@on_every_store
async def test_follower_waits_for_a_log_that_is_later_than_the_row(team: list[RunManager]) -> None:
    owner, other = team
    run, agent = await running(owner, "t")
    release = await settled_before_its_log(owner, other, agent, *range(5))
    following = asyncio.create_task(all_of(other.follow(run.run_id)))
    await asyncio.sleep(0.7)  # how late the log is, which is tested
    assert not following.done()
    await release()
    items = await following
    assert numbers(items) == list(range(5))
    assert (len(items), end_of(items).complete) == (6, True)
    assert (await row_of(other, run.run_id)).log_end == 6


@on_every_store
async def test_log_that_never_arrives_is_a_gap_before_the_end(team: list[RunManager]) -> None:
    owner, other = team
    run, agent = await running(owner, "t")
    release = await settled_before_its_log(owner, other, agent, *range(5))
    wait_for_logs(other, 0.2)
    items = await all_of(other.follow(run.run_id))
    assert items[0] == Gap(None, None)
    assert (len(items), end_of(items).complete, end_of(items).status) == (2, False, RunStatus.success)
    await release()


@on_every_store
async def test_rest_of_a_log_that_never_arrives_is_a_gap_before_the_end(team: list[RunManager]) -> None:
    owner, other = team
    run, agent = await running(owner, "t")
    await agent.ctx.emit("custom", "read")
    await until_read(other, run.run_id, "read")
    release = await settled_before_its_log(owner, other, agent, 1, 2)
    wait_for_logs(other, 0.2)
    items = await all_of(other.follow(run.run_id))
    event, gap, _ = items
    assert isinstance(event, Event)
    assert (event.data, gap) == ("read", Gap(str(event.id), None))
    assert not end_of(items).complete
    await release()


@on_every_store
async def test_follower_that_is_ahead_of_the_late_log_of_a_settled_run_waits_for_it(
    team: list[RunManager],
) -> None:
    """It has read from the memory of the owner before."""
    owner, other = team
    run, agent = await running(owner, "t")
    await agent.ctx.emit("custom", "read")
    await until_read(other, run.run_id, "read")
    release = hold_log(owner)
    await emit(agent, 1, 2, 3, 4)
    ahead = f"{agent.ctx.fence}-3"
    await settled(owner, other, agent)
    async with other.follow(run.run_id, after=ahead) as followed:
        assert await followed.batch(0.3) == [], "a log that is late is no gap"
        await release()
        items = await all_of(followed)
    assert numbers(items) == [3, 4]
    assert (len(items), end_of(items).complete) == (3, True)


@on_every_store
async def test_follower_of_the_tail_of_a_settled_run_ends_at_once(
    team: list[RunManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, other = team
    run, agent = await running(owner, "t")
    await emit(agent, 1)
    await settled(owner, other, agent)
    await all_of(other.follow(run.run_id))
    waits = counted(WakeupEvent, "wait", monkeypatch)
    items = await all_of(other.follow(run.run_id, after="$"))
    assert (len(items), end_of(items).complete, waits) == (1, True, [])


@on_every_store
async def test_end_of_a_run_without_events_is_delivered_without_a_wait(
    team: list[RunManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, other = team
    run, agent = await running(owner, "t")
    await settled(owner, other, agent)
    assert (await row_of(other, run.run_id)).log_end == 0
    waits = counted(WakeupEvent, "wait", monkeypatch)
    for manager in team:
        for after in (None, "$"):
            items = await all_of(manager.follow(run.run_id, after=after))
            assert (len(items), end_of(items).complete, waits) == (1, True, [])


async def test_event_of_a_run_without_events_was_never_issued(
    team: list[RunManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, other = team
    run, agent = await running(owner, "t")
    await settled(owner, other, agent)
    waits = counted(WakeupEvent, "wait", monkeypatch)
    items = await all_of(other.follow(run.run_id, after="1-1"))
    assert items[0] == Gap("1-1", None)
    assert (len(items), end_of(items).complete, waits) == (2, False, [])


async def test_log_in_the_memory_of_another_worker_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with team_of(2, tmp_path, event_log="memory") as (owner, other):
        run, agent = await running(owner, "t")
        await emit(agent, 1)
        await settled(owner, other, agent)
        waits = counted(WakeupEvent, "wait", monkeypatch)
        items = await all_of(other.follow(run.run_id))
        assert items[0] == Gap(None, None)
        assert (len(items), end_of(items).complete, waits) == (2, False, [])
        assert numbers(await all_of(owner.follow(run.run_id))) == [1]


# -- settled without a number


@pytest.fixture
def earlier_release(team: list[RunManager], monkeypatch: pytest.MonkeyPatch) -> list[RunManager]:
    """A team whose first worker settles its runs as one of the earlier release."""
    store: Any = assembly_of(team[0]).shared.store
    finish = store.finish

    async def finishing(own: Any, outcome: Any, **options: Any) -> Any:
        return await finish(own, outcome._replace(log_end=None), **options)

    monkeypatch.setattr(store, "finish", finishing)
    return team


@on_every_store
async def test_closed_log_of_a_worker_of_the_earlier_release_is_complete(
    earlier_release: list[RunManager],
) -> None:
    owner, other = earlier_release
    run, agent = await running(owner, "t")
    await emit(agent, 1, 2)
    await settled(owner, other, agent)
    assert (await row_of(other, run.run_id)).log_end is None
    items = await all_of(other.follow(run.run_id))
    assert (numbers(items), len(items), end_of(items).complete) == ([1, 2], 3, True)


@on_every_store
async def test_missing_log_of_a_worker_of_the_earlier_release_is_a_gap(
    earlier_release: list[RunManager],
) -> None:
    owner, other = earlier_release
    run, agent = await running(owner, "t")
    await settled(owner, other, agent)
    items = await all_of(other.follow(run.run_id))
    assert items[0] == Gap(None, None)
    assert (len(items), end_of(items).complete) == (2, False)


# -- further attempts


class SecondAttempt:
    """The code of a run that emits `events` in its first attempt, and nothing in the second."""

    def __init__(self, *events: str) -> None:
        self.events, self.begun = events, asyncio.Event()

    def __call__(self) -> Any:
        @assistant(name="agent", retries=1)
        async def agent(ctx: RunContext) -> Outcome:
            if ctx.attempt > 1:
                return Outcome(result="done")
            for event in self.events:
                await ctx.emit("custom", event)
            self.begun.set()
            await ctx.drain_event.wait()
            return Outcome(drained=True)

        return agent

    async def run_on(self, owner: RunManager) -> str:
        run = await owner.create_or_reject("t", "agent")
        owner.launch(run)
        async with asyncio.timeout(10):
            await self.begun.wait()
        return run.run_id


@asynccontextmanager
async def trio(folder: Path, code: SecondAttempt, lease: dict[str, Any]) -> AsyncGenerator[list[RunManager]]:
    """Two workers with the assistant, and one without."""
    async with AsyncExitStack() as stack:
        workers = [gateway(folder, lease=lease, agent=code()) for _ in range(2)]
        workers.append(gateway(folder, lease=lease))
        yield [await stack.enter_async_context(worker) for worker in workers]


@pytest.mark.parametrize("events", [("a", "b"), ()], ids=["events", "no event"])
async def test_log_of_a_handed_over_run_is_complete_if_its_last_attempt_emits_nothing(
    tmp_path: Path, events: tuple[str, ...]
) -> None:
    code = SecondAttempt(*events)
    async with trio(tmp_path, code, LONG) as (owner, heir, other):
        run_id = await code.run_on(owner)
        await owner.shutdown(timeout=10)
        assert await other.wait(run_id, timeout=10) == "done"
        row = await row_of(other, run_id)
        assert (row.attempt, row.log_end) == (2, 1)
        for manager in (heir, other):
            items = await all_of(manager.follow(run_id))
            assert (numbers(items), len(items)) == ([*events], len(events) + 1)
            assert end_of(items).complete


async def test_log_of_a_dead_worker_is_a_gap_if_the_last_attempt_emits_nothing(tmp_path: Path) -> None:
    code = SecondAttempt("a")
    async with trio(tmp_path, code, SHORT) as (owner, _, other):
        run_id = await code.run_on(owner)
        await until_read(other, run_id, "a")
        await hang(owner)
        assert await other.wait(run_id, timeout=10) == "done"
        event, gap, end = await all_of(other.follow(run_id))
        assert isinstance(event, Event)
        assert (event.data, gap) == ("a", Gap(str(event.id), None))
        assert isinstance(end, End)
        assert not end.complete
