"""cancel: idempotent; committed once, delivered to the task once."""

from __future__ import annotations

import asyncio

import pytest

from coordinator import MemoryRunStore, RunManager, RunStatus, Settings
from tests.support.held import hold_calls
from tests.support.inside import records_of
from tests.support.runs import managing, row, running, working


async def test_cancel_interrupts_and_persists(recorded: RunManager) -> None:
    record = await running(recorded)
    assert await recorded.cancel(record.run_id) is True
    assert record.status is RunStatus.interrupted
    assert record.abort_event.is_set()
    assert record.abort_action == "interrupt"
    assert (await row(recorded, record.run_id))["status"] == "interrupted"


async def test_cancelling_a_pending_run_frees_its_thread(manager: RunManager) -> None:
    record = await manager.create_or_reject("t")
    assert await manager.cancel(record.run_id) is True
    assert record.status is RunStatus.interrupted
    await manager.create_or_reject("t")


async def test_cancel_is_idempotent(manager: RunManager) -> None:
    record = await running(manager)
    assert [await manager.cancel(record.run_id) for _ in range(3)] == [True] * 3


async def test_cancel_is_idempotent_after_the_record_was_evicted(recorded: RunManager) -> None:
    record = await running(recorded)
    await recorded.cancel(record.run_id)
    records_of(recorded).clear()
    assert await recorded.cancel(record.run_id) is True


async def test_cancel_is_idempotent_after_the_coordination_row_was_evicted(store: MemoryRunStore) -> None:
    async with managing(store, settings=Settings(keep_finished=0)) as manager:
        record = await running(manager, user_id="ann")
        await manager.cancel(record.run_id)
        done = await running(manager, "u")
        await manager.set_status(done.run_id, RunStatus.success)
        await manager.create_or_reject("v")
        assert record.run_id not in records_of(manager)
        assert await manager.cancel(record.run_id) is True
        assert await manager.cancel(record.run_id, user_id="ann") is True
        assert await manager.cancel(record.run_id, user_id="bob") is False
        assert await manager.cancel(done.run_id) is False
        assert await manager.wait(record.run_id, timeout=5) is None


async def test_orphaned_run_is_cancelled_in_its_row(plain: RunManager, store: MemoryRunStore) -> None:
    await store.put("past", thread_id="t", status="running")
    assert await plain.cancel("past") is True
    assert (await row(plain, "past"))["status"] == "interrupted"
    assert await plain.cancel("past") is True


async def test_cancel_returns_false_if_the_record_store_cannot_be_read(
    plain: RunManager, store: MemoryRunStore
) -> None:
    async def get(run_id: str, *, user_id: str | None = None) -> None:
        raise RuntimeError("away")

    store.get = get
    assert await plain.cancel("past") is False


async def test_run_whose_status_was_set_to_interrupted_counts_as_cancelled(manager: RunManager) -> None:
    record = await running(manager)
    await manager.set_status(record.run_id, RunStatus.interrupted)
    assert await manager.cancel(record.run_id) is True


@pytest.mark.parametrize("end", ["success", "error", "timeout"])
async def test_finished_run_cannot_be_cancelled(manager: RunManager, end: str) -> None:
    record = await running(manager)
    await manager.set_status(record.run_id, end)
    assert await manager.cancel(record.run_id) is False
    assert record.status.value == end
    assert not record.abort_event.is_set()


async def test_an_unknown_run_is_not_cancelled(manager: RunManager) -> None:
    assert await manager.cancel("unknown") is False


async def test_run_of_another_user_is_not_cancelled(manager: RunManager) -> None:
    record = await manager.create_or_reject("t", user_id="ann")
    assert await manager.cancel(record.run_id, user_id="bob") is False
    assert record.status is RunStatus.pending
    assert await manager.cancel(record.run_id, user_id="ann") is True


async def test_first_cancel_action_is_kept(manager: RunManager) -> None:
    record = await running(manager)
    await manager.cancel(record.run_id, action="rollback")
    await manager.cancel(record.run_id, action="interrupt")
    assert record.abort_action == "rollback"


async def test_repeated_cancels_cancel_the_task_once(manager: RunManager) -> None:
    record = await running(manager)
    work = await working(record)
    assert await manager.cancel(record.run_id) is True
    assert work.task.cancelling() == 1
    await work.unwinding.wait()
    assert await manager.cancel(record.run_id) is True
    await manager.create_or_reject("t", multitask_strategy="interrupt")
    await asyncio.sleep(0)
    assert work.cancels == 1
    work.unwound.set()
    await asyncio.wait([work.task])


async def test_run_stays_interrupted_if_its_task_reports_success_after_the_cancel(
    recorded: RunManager,
) -> None:
    record = await running(recorded)

    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await recorded.set_status(record.run_id, RunStatus.success)

    record.task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    assert await recorded.cancel(record.run_id) is True
    await record.task
    assert record.status is RunStatus.interrupted
    assert not await recorded.has_inflight("t")
    assert (await row(recorded, record.run_id))["status"] == "interrupted"


async def test_cancelled_queued_run_ends_without_starting(manager: RunManager) -> None:
    first = await running(manager)
    waiting = await manager.create_or_reject("t", multitask_strategy="enqueue")
    began = False

    async def work() -> None:
        nonlocal began
        if await manager.start(waiting.run_id):
            began = True

    waiting.task = asyncio.create_task(work())
    await asyncio.sleep(0)
    ended = asyncio.create_task(manager.wait(waiting.run_id))
    assert await manager.cancel(waiting.run_id) is True
    assert await asyncio.wait_for(ended, 5) is None
    await asyncio.wait([waiting.task])
    assert not began
    assert waiting.status is RunStatus.interrupted
    assert first.status is RunStatus.running


async def test_cancel_with_wait_returns_after_the_task_has_stopped(manager: RunManager) -> None:
    record = await running(manager)
    work = await working(record)
    cancelling = asyncio.create_task(manager.cancel(record.run_id, wait=10))
    await work.unwinding.wait()
    await asyncio.sleep(0)
    assert not cancelling.done()
    work.unwound.set()
    assert await cancelling is True
    assert work.task.done()
    assert not await manager.has_inflight("t")


async def test_cancel_by_another_manager_reaches_the_task(store: MemoryRunStore) -> None:
    async with managing(store) as owner, managing(store) as other:
        record = await running(owner)
        work = await working(record)
        assert await other.cancel(record.run_id) is True
        await asyncio.wait_for(work.unwinding.wait(), 5)
        assert record.status is RunStatus.interrupted
        work.unwound.set()
        await asyncio.wait([work.task])


async def test_cancel_by_the_owner_delivers_the_action_that_a_peer_committed(store: MemoryRunStore) -> None:
    async with managing(store) as owner, managing(store) as other:
        record = await running(owner)
        work = await working(record)
        assert await other.cancel(record.run_id, action="rollback") is True
        assert await owner.cancel(record.run_id) is True
        assert work.task.cancelling() == 1
        assert record.abort_action == "rollback"
        work.unwound.set()
        await asyncio.wait([work.task])


async def test_cancel_completes_after_its_caller_is_cancelled(
    plain: RunManager, store: MemoryRunStore
) -> None:
    record = await running(plain)
    work = await working(record)
    held = hold_calls(store, "update_status")
    cancelling = asyncio.create_task(plain.cancel(record.run_id))
    await held.reached.wait()
    cancelling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelling
    held.go_on.set()
    await asyncio.wait_for(work.unwinding.wait(), 5)
    work.unwound.set()
    await asyncio.wait([work.task])
    assert record.status is RunStatus.interrupted
    assert (await row(plain, record.run_id))["status"] == "interrupted"


async def test_task_is_cancelled_although_the_store_raises_cancelled_error(
    plain: RunManager, store: MemoryRunStore
) -> None:
    record = await running(plain)
    work = await working(record)

    async def update_status(run_id: str, status: str, *, error: str | None = None) -> bool:
        raise asyncio.CancelledError

    store.update_status = update_status
    assert await plain.cancel(record.run_id) is True
    await asyncio.wait_for(work.unwinding.wait(), 5)
    work.unwound.set()
    await asyncio.wait([work.task])
    assert not await plain.has_inflight("t")
