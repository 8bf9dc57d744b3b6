"""A gateway with tasks of its own publishes the events of its runs; every worker subscribes to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest

from coordinator import Event, Gap, InvalidArgument, RunManager, RunNotFound, RunRecord, RunStatus, StaleFence
from tests.fundamentals.test_existing_callers import OwnTask
from tests.support.agents import running
from tests.support.held import hold_calls
from tests.support.teams import EVENT_BUDGET, on_every_store

pytestmark = [on_every_store, pytest.mark.settings(event_budget=EVENT_BUDGET)]

Items = AsyncGenerator[Event | Gap | None]


async def started(manager: RunManager, thread: str = "t") -> tuple[RunRecord, OwnTask]:
    record = await manager.create_or_reject(thread)
    own = OwnTask(manager, record)
    await own.working.wait()
    return record, own


async def all_of(items: Items) -> list[tuple[str, Any]]:
    """What was published. A gap fails."""
    seen: list[tuple[str, Any]] = []
    async with aclosing(items), asyncio.timeout(20):
        async for item in items:
            if item is not None:
                assert isinstance(item, Event)
                seen.append((item.mode, item.data))
    return seen


async def next_event(items: Items) -> Event:
    async with asyncio.timeout(20):
        while (item := await anext(items)) is None:
            pass
    assert isinstance(item, Event)
    return item


async def test_subscribers_of_all_workers_get_every_event_and_the_end(team: list[RunManager]) -> None:
    worker, peer = team
    record, own = await started(worker)
    streams = [each.streams.subscribe(record.run_id, heartbeat=60) for each in team]
    readers = [asyncio.create_task(all_of(stream)) for stream in streams]
    for number in range(20):
        await worker.streams.publish(record.run_id, "messages", {"n": number})
    await worker.streams.end(record.run_id)
    await worker.streams.end(record.run_id)
    expected = [("messages", {"n": number}) for number in range(20)]
    assert await asyncio.gather(*readers) == [expected, expected]
    assert record.status is RunStatus.running, "the events are complete before the run has settled"
    assert await all_of(peer.streams.subscribe(record.run_id)) == expected
    with pytest.raises(StaleFence, match=f"run '{record.run_id}' has ended its stream"):
        await worker.streams.publish(record.run_id, "messages", "late")
    own.may_end.set()
    await peer.wait(record.run_id, timeout=20)
    assert await all_of(peer.streams.subscribe(record.run_id)) == expected


async def test_subscriber_resumes_after_an_event(team: list[RunManager]) -> None:
    worker, peer = team
    record, own = await started(worker)
    for number in range(3):
        await worker.streams.publish(record.run_id, "values", number)
    async with aclosing(peer.streams.subscribe(record.run_id)) as items:
        first = await next_event(items)
    async with aclosing(worker.streams.subscribe(record.run_id, last_event_id=str(first.id))) as items:
        assert [(await next_event(items)).data for _ in range(2)] == [1, 2]
        await worker.streams.publish(record.run_id, "values", 3)
        assert (await next_event(items)).data == 3
    own.may_end.set()
    await worker.streams.end(record.run_id)


async def test_heartbeats_come_while_nothing_is_published(team: list[RunManager]) -> None:
    worker, peer = team
    record, own = await started(worker)
    async with aclosing(peer.streams.subscribe(record.run_id, heartbeat=0.02)) as items:
        assert [await anext(items) for _ in range(3)] == [None] * 3
        await worker.streams.publish(record.run_id, "custom", 1)
        assert (await next_event(items)).data == 1
    await worker.streams.end(record.run_id)
    own.may_end.set()


async def test_stream_without_events_ends(team: list[RunManager]) -> None:
    worker, peer = team
    record, own = await started(worker)
    reader = asyncio.create_task(all_of(peer.streams.subscribe(record.run_id)))
    await worker.streams.end(record.run_id)
    assert await asyncio.wait_for(reader, 20) == []
    own.may_end.set()


async def test_stream_of_a_run_that_settles_without_its_end_ends(team: list[RunManager]) -> None:
    worker, peer = team
    record, own = await started(worker)
    await worker.streams.publish(record.run_id, "custom", 1)
    reader = peer.streams.subscribe(record.run_id)
    assert (await next_event(reader)).data == 1
    own.may_end.set()
    async with aclosing(reader), asyncio.timeout(20):
        rest = [item async for item in reader if item is not None]
    assert [type(item) for item in rest] == [Gap], "nothing proves that no event is missing"


async def test_publishing_is_refused_where_the_run_is_not_executed(team: list[RunManager]) -> None:
    worker, peer = team
    record, own = await started(worker)
    with pytest.raises(RunNotFound):
        await peer.streams.publish(record.run_id, "custom", 1)
    with pytest.raises(RunNotFound):
        await worker.streams.end("unknown")
    with pytest.raises(RunNotFound):
        await all_of(peer.streams.subscribe("unknown"))
    with pytest.raises(InvalidArgument):
        await worker.streams.publish(record.run_id, "custom", object())
    queued = await worker.create_or_reject("t", multitask_strategy="enqueue")
    with pytest.raises(StaleFence, match=f"run '{queued.run_id}' does not hold its thread yet"):
        await worker.streams.publish(queued.run_id, "custom", 1)
    await worker.cancel(queued.run_id)
    own.may_end.set()
    await worker.wait(record.run_id, timeout=20)
    with pytest.raises(StaleFence, match=f"run '{record.run_id}' has settled"):
        await worker.streams.publish(record.run_id, "custom", 1)


async def test_publishing_is_refused_while_the_end_of_the_run_is_written(team: list[RunManager]) -> None:
    worker, peer = team
    record, own = await started(worker)
    settling = hold_calls(worker.store, "finish")
    record.task = None
    ending = asyncio.create_task(worker.set_status(record.run_id, RunStatus.success))
    await settling.reached.wait()
    with pytest.raises(StaleFence, match=f"run '{record.run_id}' has stopped"):
        await worker.streams.publish(record.run_id, "custom", 1)
    settling.go_on.set()
    await ending
    assert await all_of(peer.streams.subscribe(record.run_id)) == []
    own.may_end.set()
    await own.ended.wait()


async def test_events_of_a_launched_run_are_one_log(team: list[RunManager]) -> None:
    worker, peer = team
    record, agent = await running(worker, "t")
    await agent.ctx.emit("custom", 1)
    await worker.streams.publish(record.run_id, "custom", 2)
    await worker.streams.end(record.run_id)
    assert await all_of(peer.streams.subscribe(record.run_id)) == [("custom", 1), ("custom", 2)]
    agent.may_end.set()
    await peer.wait(record.run_id, timeout=20)
