"""The events of a run can be followed on any worker, from any event, to the end; missing events are a gap."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from coordinator import (
    End,
    Event,
    Gap,
    InvalidArgument,
    RunContext,
    RunManager,
    RunNotFound,
    RunStatus,
    Settings,
    StoreUnavailable,
)
from tests.support.agents import Agent, launched, running
from tests.support.inside import assembly_of, buffered_by, poll_every, watched_by
from tests.support.teams import EVENT_BUDGET, on_every_store
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("patient")

Item = Event | Gap | End

MOST_FOLLOWERS = 60
"""Of one run: each reads all of its events, and a run takes longer the more there are."""


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COORDINATOR_EVENT_BUDGET", str(EVENT_BUDGET))


async def all_of(followed: AsyncIterator[Item]) -> list[Item]:
    async with asyncio.timeout(20):
        return [item async for item in followed]


def numbers(items: Sequence[Item]) -> list[Any]:
    return [item.data for item in items if isinstance(item, Event)]


def end_of(items: list[Item]) -> End:
    ends = [item for item in items if isinstance(item, End)]
    assert len(ends) == 1
    assert items[-1] is ends[0], "the end is the last item"
    return ends[0]


async def counting(ctx: RunContext) -> str:
    """Emits 0 … 199, some of them concurrently, and yields to other tasks in between."""
    for number in range(0, 200, 4):
        await ctx.emit("custom", number)
        await asyncio.gather(*(ctx.emit("custom", number + more) for more in (1, 2, 3)))
    return "done"


@on_every_store
async def test_no_event_is_lost_or_repeated_between_replay_and_live(team: list[RunManager]) -> None:
    """Followers join at every moment: before, during and after the run."""
    run = await team[0].create_or_reject("t")
    followers = [asyncio.create_task(all_of(m.follow(run.run_id))) for m in team]
    task = team[0].launch(run, counting)
    while not task.done() and len(followers) < MOST_FOLLOWERS:
        followers += [asyncio.create_task(all_of(m.follow(run.run_id))) for m in team]
        await asyncio.sleep(0.002)
    await task
    followers += [asyncio.create_task(all_of(m.follow(run.run_id))) for m in team]
    for items in await asyncio.gather(*followers):
        assert numbers(items) == list(range(200))
        end = end_of(items)
        assert (end.status, end.complete, len(items)) == (RunStatus.success, True, 201)


@on_every_store
async def test_stored_events_are_returned_at_once(team: list[RunManager]) -> None:
    """The run emits nothing more: neither the next event nor the next poll is needed."""
    run, agent = await running(team[0], "t")
    await agent.ctx.emit("custom", "before")
    for manager in team:
        followed = manager.follow(run.run_id)
        poll_every(followed, 60.0)
        async with asyncio.timeout(10):
            event = await anext(followed)
        assert isinstance(event, Event)
        assert event.data == "before"
        await followed.aclose()


@on_every_store
async def test_follower_resumes_after_any_event(team: list[RunManager]) -> None:
    run = await team[0].create_or_reject("t")
    await team[0].launch(run, counting)
    for manager in team:
        first = await all_of(manager.follow(run.run_id))
        middle = first[100]
        assert isinstance(middle, Event)
        rest = await all_of(manager.follow(run.run_id, after=str(middle.id)))
        assert rest == first[101:]
        assert await all_of(manager.follow(run.run_id, after=end_of(first).last_id)) == first[-1:]


async def until_read(manager: RunManager, run_id: str, data: str) -> None:
    """Waits until the event can be read. With the log in the store, other workers read it a moment later."""

    async def holds() -> bool:
        return data in [event.data for event in await manager.events(run_id) if isinstance(event, Event)]

    await wait_until(holds, description="this worker can read it")


@on_every_store
async def test_follower_from_now_on_skips_earlier_events(team: list[RunManager]) -> None:
    run, agent = await running(team[0], "t")
    await agent.ctx.emit("custom", "before")
    for manager in team:
        await until_read(manager, run.run_id, "before")
        async with manager.follow(run.run_id, after="$") as followed:
            await agent.ctx.emit("custom", "after")
            event = await anext(followed)
            assert isinstance(event, Event)
            assert event.data == "after"


@on_every_store
async def test_follower_of_some_modes_skips_the_others(team: list[RunManager]) -> None:
    async def agent(ctx: RunContext) -> None:
        for mode in ("values", "updates", "updates|sub", "custom"):
            await ctx.emit(mode, mode)

    run = await team[0].create_or_reject("t")
    team[0].launch(run, agent)
    items = await all_of(team[0].follow(run.run_id, modes=["updates", "custom"]))
    assert numbers(items) == ["updates", "updates|sub", "custom"]
    assert end_of(items).complete, "events of other modes are not missing"


@on_every_store
async def test_emitted_events_are_kept_when_the_run_is_stopped(team: list[RunManager]) -> None:
    """Events that the run emits while it unwinds are kept as well."""
    a, b = team
    run, agent = await running(a, "t", Agent(stubborn=True))
    await agent.ctx.emit("custom", "streamed")
    await b.cancel(run.run_id)
    await agent.cancelled.wait()
    await agent.ctx.emit("custom", "last words")
    agent.may_stop.set()
    items = await all_of(team[-1].follow(run.run_id))
    assert numbers(items) == ["streamed", "last words"]
    end = end_of(items)
    assert (end.status, end.cause, end.complete) == (RunStatus.interrupted, "user", True)


@on_every_store
async def test_every_follower_receives_the_end(team: list[RunManager]) -> None:
    """Of a finished, a failed and a never started run: on the owner and on the other worker."""

    async def failing(ctx: RunContext) -> None:
        await ctx.emit("custom", 1)
        raise ValueError("no")

    a, b = team
    failed = await a.create_or_reject("t1")
    waiting = await a.create_or_reject("t2")
    followers = [asyncio.create_task(all_of(m.follow(run.run_id))) for m in team for run in (failed, waiting)]
    await asyncio.sleep(0)
    a.launch(failed, failing)
    await b.cancel(waiting.run_id)
    ends = [end_of(items) for items in await asyncio.gather(*followers)]
    assert [end.status.value for end in ends] == ["error", "interrupted"] * 2
    assert ends[0].error == "ValueError: no"


@on_every_store
async def test_follower_of_a_run_without_events_receives_only_the_end(team: list[RunManager]) -> None:
    run, agent = await launched(team[0], "t")
    following = asyncio.create_task(all_of(team[0].follow(run.run_id)))
    agent.may_end.set()
    items = await following
    assert len(items) == 1
    assert end_of(items).complete


@on_every_store
async def test_trimmed_cursor_is_an_explicit_gap(team: list[RunManager]) -> None:
    async def chatty(ctx: RunContext) -> None:
        for number in range(1, 12_001):
            await ctx.emit("custom", number)

    run = await team[0].create_or_reject("t")
    task = team[0].launch(run, chatty)
    await asyncio.wait([task])
    for after in (None, "1-5"):
        items = await all_of(team[0].follow(run.run_id, after=after))
        gap, first = items[:2]
        assert isinstance(gap, Gap)
        assert isinstance(first, Event)
        assert (gap.after, gap.before) == (after, str(first.id))
        assert numbers(items) == list(range(first.data, 12_001))
        assert 1_500 < first.data < 3_000
        assert not end_of(items).complete


@on_every_store
@pytest.mark.parametrize("after", ["7-1000000", "1-1000000"])
async def test_event_id_that_was_never_issued_is_a_gap(team: list[RunManager], after: str) -> None:
    """A client's Last-Event-ID may have any value. Later events are returned nevertheless."""
    run, agent = await running(team[0], "t")
    await agent.ctx.emit("custom", 1)
    async with team[0].follow(run.run_id, after=after) as followed:
        assert await anext(followed) == Gap(after, None)
        await agent.ctx.emit("custom", 2)
        event = await anext(followed)
        assert isinstance(event, Event)
        assert event.data == 2


@pytest.mark.parametrize("after", ["", "5", "-1", "1-2-3", "1-\u0661", f"{2**63}-1", "1-1\n", "x" * 10_000])
async def test_malformed_event_id_is_refused(alone: RunManager, after: str) -> None:
    run = await alone.create_or_reject("t")
    with pytest.raises(InvalidArgument, match="after"):
        alone.follow(run.run_id, after=after)


async def test_follower_that_is_closed_watches_no_more(alone: RunManager) -> None:
    run, agent = await running(alone, "t")
    await agent.ctx.emit("custom", 1)
    follower = alone.follow(run.run_id)
    assert isinstance(await anext(follower), Event)
    await agent.ctx.emit("custom", 2)
    assert assembly_of(alone).shared.audience.has(run.run_id)
    await follower.aclose()
    assert not assembly_of(alone).shared.audience.has(run.run_id)
    with pytest.raises(StopAsyncIteration):
        await anext(follower)


async def test_follower_of_a_closed_manager_watches_no_more(alone: RunManager) -> None:
    run, _ = await running(alone, "t")
    follower = alone.follow(run.run_id)
    async with asyncio.timeout(20):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await anext(follower)
        assert assembly_of(alone).shared.audience.has(run.run_id)
        await alone.aclose()
        await alone.store.aclose()
        with pytest.raises(StoreUnavailable):
            await all_of(follower)
    assert not assembly_of(alone).shared.audience.has(run.run_id)


@on_every_store
async def test_run_of_another_user_cannot_be_followed(team: list[RunManager]) -> None:
    run = await team[0].create_or_reject("t", user_id="ann")
    for manager in team:
        for run_id, user in ((run.run_id, "bob"), ("unknown", None)):
            with pytest.raises(RunNotFound):
                await anext(manager.follow(run_id, user_id=user))
            with pytest.raises(RunNotFound):
                await manager.events(run_id, user_id=user)


async def test_unstorable_event_is_refused_and_uses_no_number(alone: RunManager) -> None:
    run, agent = await running(alone, "t")
    for data in (object(), float("nan"), {1, 2}):
        with pytest.raises(InvalidArgument, match="data"):
            await agent.ctx.emit("custom", data)
    for mode in ("", "a\r\nid: 1"):
        with pytest.raises(InvalidArgument, match="mode"):
            await agent.ctx.emit(mode, 1)
    await agent.ctx.emit("custom", 1)
    assert [str(event.id) for event in await alone.events(run.run_id) if isinstance(event, Event)] == ["1-1"]


@pytest.mark.parametrize("team", ["redis", "store only", "postgres"], indirect=True)
async def test_event_of_the_largest_size_is_delivered(team: list[RunManager]) -> None:
    run, agent = await running(team[0], "t")
    text = "x" * (Settings().event_max_bytes - 2)
    await agent.ctx.emit("custom", text)
    async with asyncio.timeout(20), team[-1].follow(run.run_id) as followed:
        event = await anext(followed)
    assert isinstance(event, Event)
    assert event.data == text


async def test_event_that_is_too_large_is_replaced_by_a_notice(
    alone: RunManager, caplog: pytest.LogCaptureFixture
) -> None:
    run, agent = await running(alone, "t")
    limit = Settings().event_max_bytes
    large = {"x": "x" * limit}
    await agent.ctx.emit("custom", large)
    await agent.ctx.emit_encoded("updates|a", json.dumps(large).encode())
    await agent.ctx.save(large)
    await agent.ctx.emit("custom", 1)
    agent.may_end.set()
    items = await all_of(alone.follow(run.run_id, modes=["custom"]))
    *omitted, last = [item for item in items if isinstance(item, Event)]
    notices: list[dict[str, Any]] = [event.data for event in omitted]
    assert [event.mode for event in omitted] == ["omitted"] * 3
    assert [(data["mode"], data["max_bytes"]) for data in notices] == [
        (mode, limit) for mode in ("custom", "updates|a", "values")
    ]
    assert all(data["bytes"] > limit for data in notices)
    assert (last.data, end_of(items).status, end_of(items).complete) == (1, RunStatus.success, True)
    assert caplog.text.count("is omitted") == 1
    assert (await alone.threads.get("t")).values == large


async def test_long_modes_are_shortened_and_stay_different(alone: RunManager) -> None:
    run, agent = await running(alone, "t")
    modes = ["updates|" + "|".join("subgraph:" + "é" * 32 for _ in range(depth)) for depth in (8, 60, 61)]
    for mode in modes:
        await agent.ctx.emit(mode, 1)
    agent.may_end.set()
    events = [item async for item in alone.follow(run.run_id, modes=["updates"]) if isinstance(item, Event)]
    assert events[0].mode == modes[0]
    assert len({event.mode for event in events}) == 3
    assert max(len(event.mode.encode()) for event in events) <= 4096


@on_every_store
async def test_slow_follower_is_not_disconnected_and_buffers_one_page(team: list[RunManager]) -> None:
    run = await team[0].create_or_reject("t")
    async with team[-1].follow(run.run_id) as followed:
        task = team[0].launch(run, counting)
        first = await anext(followed)
        await asyncio.wait([task])
        assert len(buffered_by(followed)) <= 256
        items = [first, *await all_of(followed)]
    assert numbers(items) == list(range(200))


@on_every_store
async def test_cancelled_wait_for_an_event_loses_no_event(team: list[RunManager]) -> None:
    """A gateway sends its heartbeats this way."""
    run, agent = await running(team[0], "t")
    items: list[Item] = []
    async with team[-1].follow(run.run_id) as followed:
        for number in range(40):
            emitting = asyncio.create_task(agent.ctx.emit("custom", number))
            try:
                async with asyncio.timeout(number % 5 / 2000):
                    items.append(await anext(followed))
            except TimeoutError:
                pass
            await emitting
        agent.may_end.set()
        items += await all_of(followed)
    assert numbers(items) == list(range(40))


@on_every_store
async def test_follower_of_a_deleted_run_raises_run_not_found(team: list[RunManager]) -> None:
    run, agent = await running(team[0], "t")
    async with team[1].follow(run.run_id) as followed:
        following = asyncio.create_task(all_of(followed))
        agent.may_end.set()
        await team[0].wait(run.run_id, timeout=20)
        await following
    await team[0].threads.delete("t")
    with pytest.raises(RunNotFound):
        await anext(team[1].follow(run.run_id))


@on_every_store
async def test_closed_follower_unsubscribes(team: list[RunManager]) -> None:
    run, _ = await running(team[0], "t")
    manager = team[0]
    notifier: Any = assembly_of(manager).shared.notifier
    watched = watched_by(notifier)
    async with manager.follow(run.run_id):
        assert watched
    await wait_until(lambda: not watched, description="no thread is watched")


@on_every_store
async def test_follower_ends_with_its_manager(team: list[RunManager]) -> None:
    """A follower retries while the store is unavailable, but not after it was closed."""
    holder, leaving = team
    run, agent = await running(holder, "t")
    async with leaving.follow(run.run_id) as followed:
        await leaving.aclose()
        with pytest.raises(StoreUnavailable):
            await all_of(followed)
    agent.may_end.set()
