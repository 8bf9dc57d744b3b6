"""cleanup, and how long finished records are kept in memory."""

from __future__ import annotations

import asyncio

import pytest

from coordinator import MemoryRunStore, RunManager, RunStatus, Settings
from stores.plain import PlainStore
from tests.support.inside import records_of
from tests.support.runs import managing, row, running, working


async def test_cleanup_without_a_store_removes_the_run() -> None:
    async with managing() as manager:
        record = await manager.create("t")
        await manager.cleanup(record.run_id, delay=0)
        assert await manager.get(record.run_id) is None
        assert await manager.list_by_thread("t") == []
        assert records_of(manager) == {}


@pytest.mark.parametrize("recorded", ["records", "sqlite"], indirect=True)
async def test_cleanup_with_a_store_keeps_the_row(recorded: RunManager) -> None:
    record = await running(recorded)
    await recorded.set_status(record.run_id, RunStatus.success)
    await recorded.cleanup(record.run_id, delay=0)
    stored = await recorded.get(record.run_id)
    assert stored is not None
    assert (stored.status, stored.store_only) == (RunStatus.success, True)


async def test_record_is_kept_until_the_delay_is_over(manager: RunManager) -> None:
    record = await manager.create("t")
    cleaning = asyncio.create_task(manager.cleanup(record.run_id, delay=0.02))
    await asyncio.sleep(0)
    assert record.run_id in records_of(manager)
    await cleaning
    assert record.run_id not in records_of(manager)


async def test_cleanup_of_unknown_run_is_no_error(manager: RunManager) -> None:
    await manager.cleanup("unknown", delay=0)


async def test_cleanup_of_unfinished_run_ends_it_and_frees_its_thread(manager: RunManager) -> None:
    record = await running(manager)
    await manager.cleanup(record.run_id, delay=0)
    assert record.status is RunStatus.interrupted
    await manager.create_or_reject("t")


async def test_cleanup_of_working_run_frees_its_thread_when_the_task_stops(manager: RunManager) -> None:
    record = await running(manager)
    work = await working(record)
    await manager.cleanup(record.run_id, delay=0)
    assert await manager.has_inflight("t")
    work.release.set()
    await work.task
    new = await manager.create_or_reject("t", multitask_strategy="enqueue")
    await asyncio.wait_for(manager.set_status(new.run_id, RunStatus.running), 5)
    assert new.status is RunStatus.running


async def test_cleanup_of_queued_run_removes_it_from_the_queue(manager: RunManager) -> None:
    first = await running(manager)
    waiting = await manager.create_or_reject("t", multitask_strategy="enqueue")
    await manager.cleanup(waiting.run_id, delay=0)
    assert waiting.status is RunStatus.interrupted
    await manager.set_status(first.run_id, RunStatus.success)
    assert not await manager.has_inflight("t")


# -- eviction of finished records


async def _finished(manager: RunManager, thread_id: str) -> str:
    record = await running(manager, thread_id)
    await manager.set_status(record.run_id, RunStatus.success)
    return record.run_id


async def test_finished_record_is_kept_in_memory(manager: RunManager) -> None:
    run_id = await _finished(manager, "t")
    await manager.create_or_reject("u")
    assert run_id in records_of(manager)


async def test_300_seconds_and_10000_records_are_the_default() -> None:
    assert (Settings().keep_finished, Settings().keep_finished_max) == (300, 10_000)


async def test_finished_record_is_evicted_after_keep_finished() -> None:
    async with managing(MemoryRunStore(), settings=Settings(keep_finished=0)) as manager:
        run_id = await _finished(manager, "t")
        in_flight = await manager.create_or_reject("u")
        stored = await manager.get(run_id)
        assert stored is not None
        assert stored.store_only
        assert list(records_of(manager)) == [in_flight.run_id]


async def test_finished_record_is_evicted_without_another_admission() -> None:
    async with managing(settings=Settings(keep_finished=0)) as manager:
        run_id = await _finished(manager, "t")
        assert await manager.get(run_id) is None
        assert records_of(manager) == {}


async def test_oldest_finished_records_are_evicted_first() -> None:
    async with managing(MemoryRunStore(), settings=Settings(keep_finished_max=3)) as manager:
        finished = [await _finished(manager, f"t{number}") for number in range(6)]
        in_flight = await manager.create_or_reject("u")
        assert set(records_of(manager)) == {*finished[-3:], in_flight.run_id}


async def test_coordination_row_of_finished_run_of_a_plain_store_is_evicted() -> None:
    async with managing(MemoryRunStore(), settings=Settings(keep_finished=0)) as manager:
        run_id = await _finished(manager, "t")
        await manager.create_or_reject("u")
        assert isinstance(manager.store, PlainStore)
        assert await manager.store.row(run_id) is None
        assert (await row(manager, run_id))["status"] == "success"
