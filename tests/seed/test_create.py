"""create: a pending run without the one-run-per-thread rule."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from coordinator import MemoryRunStore, RunManager, RunStatus
from tests.support.held import hold_calls
from tests.support.inside import records_of
from tests.support.runs import row, running


async def test_created_run_is_readable_at_once(manager: RunManager) -> None:
    record = await manager.create("t", "lead")
    assert await manager.get(record.run_id) is record
    assert await manager.list_by_thread("t") == [record]


async def test_several_runs_are_created_on_one_thread(manager: RunManager) -> None:
    first, second = await manager.create("t"), await manager.create("t")
    await manager.set_status(first.run_id, RunStatus.running)
    await manager.set_status(second.run_id, RunStatus.running)
    assert (first.status, second.status) == (RunStatus.running, RunStatus.running)
    await manager.set_status(second.run_id, RunStatus.success)
    assert first.status is RunStatus.running
    assert await manager.has_inflight("t")
    await manager.set_status(first.run_id, RunStatus.success)
    assert not await manager.has_inflight("t")


async def test_run_is_created_on_a_thread_with_an_admitted_run(manager: RunManager) -> None:
    admitted = await running(manager)
    beside = await manager.create("t")
    await manager.set_status(beside.run_id, RunStatus.running)
    await manager.set_status(beside.run_id, RunStatus.error, error="no")
    assert admitted.status is RunStatus.running
    assert (beside.status, beside.error) == (RunStatus.error, "no")


async def test_several_users_may_be_imported_onto_one_thread(manager: RunManager) -> None:
    ann = await manager.create("t", user_id="ann")
    bob = await manager.create("t", user_id="bob")
    assert await manager.list_by_thread("t", user_id="ann") == [ann]
    assert await manager.list_by_thread("t", user_id="bob") == [bob]


async def test_the_row_is_written_before_the_call_returns(recorded: RunManager) -> None:
    record = await recorded.create("t", "lead", metadata={"k": 1}, kwargs={"q": 2}, user_id="u")
    stored = await row(recorded, record.run_id)
    assert (stored["status"], stored["thread_id"], stored["assistant_id"]) == ("pending", "t", "lead")
    assert (stored["metadata"], stored["kwargs"], stored["user_id"]) == ({"k": 1}, {"q": 2}, "u")


async def test_store_error_is_raised_unchanged_and_removes_the_record(
    plain: RunManager, store: MemoryRunStore
) -> None:
    failure = RuntimeError("the database is gone")

    async def put(run_id: str, **fields: Any) -> None:
        raise failure

    store.put = put
    with pytest.raises(RuntimeError) as raised:
        await plain.create("t")
    assert raised.value is failure
    assert records_of(plain) == {}
    assert await plain.list_by_thread("t") == []
    assert not await plain.has_inflight("t")


async def test_cancelled_error_of_the_store_leaves_no_record(
    plain: RunManager, store: MemoryRunStore
) -> None:
    calls = 0

    async def put(run_id: str, **fields: Any) -> None:
        nonlocal calls
        calls += 1
        raise asyncio.CancelledError

    store.put = put
    with pytest.raises(asyncio.CancelledError):
        await plain.create("t")
    assert calls == 1
    assert records_of(plain) == {}
    assert await plain.list_by_thread("t") == []
    assert not await plain.has_inflight("t")


@pytest.mark.parametrize("written", [False, True], ids=["before the write", "after the write"])
async def test_a_cancelled_create_leaves_no_run_in_flight(
    plain: RunManager, store: MemoryRunStore, written: bool
) -> None:
    put, reached = store.put, asyncio.Event()

    async def hanging_put(run_id: str, **fields: Any) -> None:
        if written:
            await put(run_id, **fields)
        reached.set()
        await asyncio.Event().wait()

    store.put = hanging_put
    creating = asyncio.create_task(plain.create("t"))
    await reached.wait()
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    assert records_of(plain) == {}
    assert [stored["status"] for stored in await store.list_by_thread("t")] == ["interrupted"] * written
    assert not await plain.has_inflight("t")
    store.put = put
    await plain.create_or_reject("t")


async def test_readers_of_the_thread_wait_until_the_run_is_written(
    plain: RunManager, store: MemoryRunStore
) -> None:
    held = hold_calls(store, "put")
    creating = asyncio.create_task(plain.create("t"))
    await held.reached.wait()
    listing = asyncio.create_task(plain.list_by_thread("t"))
    await asyncio.sleep(0)
    assert not listing.done()
    assert await plain.list_by_thread("another thread") == []
    held.go_on.set()
    assert await listing == [await creating]


async def test_kwargs_that_are_not_json_are_stored_as_text(recorded: RunManager) -> None:
    opaque = object()
    record = await recorded.create("t", kwargs={"callback": opaque, "n": 1})
    assert record.kwargs["callback"] is opaque
    stored = await row(recorded, record.run_id)
    assert stored["kwargs"] == {"callback": str(opaque), "n": 1}


async def test_reconcile_does_not_end_runs_of_its_own_process(manager: RunManager) -> None:
    record = await manager.create("t")
    assert await manager.reconcile_orphaned_inflight_runs(error="gone") == []
    assert record.status is RunStatus.pending
    assert await manager.has_inflight("t")


async def test_interrupt_cancels_created_runs(manager: RunManager) -> None:
    old = [await manager.create("t"), await manager.create("t")]
    await manager.create_or_reject("t", multitask_strategy="interrupt")
    assert [record.status for record in old] == [RunStatus.interrupted] * 2
    assert all(record.abort_event.is_set() for record in old)
