"""set_status and start: the states of a run, and when it settles."""

from __future__ import annotations

import asyncio
import logging

import pytest

from coordinator import MemoryRunStore, RunManager, RunStatus
from stores.states import TERMINAL
from tests.support.held import hold_calls
from tests.support.inside import assembly_of
from tests.support.inside_stores import rows_of
from tests.support.runs import managing, row, running, working

ENDS = sorted(TERMINAL)


@pytest.mark.parametrize("end", ENDS)
async def test_pending_running_and_terminal_status_are_stored(recorded: RunManager, end: RunStatus) -> None:
    record = await recorded.create_or_reject("t")
    await recorded.set_status(record.run_id, RunStatus.running)
    assert (await row(recorded, record.run_id))["status"] == "running"
    await recorded.set_status(record.run_id, end)
    assert record.status is end
    assert (await row(recorded, record.run_id))["status"] == end.value


@pytest.mark.parametrize("end", ENDS)
async def test_a_pending_run_may_end_directly(manager: RunManager, end: RunStatus) -> None:
    record = await manager.create_or_reject("t")
    await manager.set_status(record.run_id, end)
    assert record.status is end
    await manager.create_or_reject("t")


@pytest.mark.parametrize("late", sorted(RunStatus))
@pytest.mark.parametrize("end", ENDS)
async def test_terminal_status_never_changes(recorded: RunManager, end: RunStatus, late: RunStatus) -> None:
    record = await running(recorded)
    await recorded.set_status(record.run_id, end, error="first")
    before, stored = record.updated_at, await row(recorded, record.run_id)
    await recorded.set_status(record.run_id, late, error="late")
    assert (record.status, record.error, record.updated_at) == (end, "first", before)
    assert await row(recorded, record.run_id) == stored


async def test_a_status_may_be_given_as_text(manager: RunManager) -> None:
    record = await manager.create("t")
    await manager.set_status(record.run_id, "running")
    await manager.set_status(record.run_id, "error", error="boom")
    assert (record.status, record.error) == (RunStatus.error, "boom")


async def test_the_error_is_persisted(recorded: RunManager) -> None:
    record = await recorded.create("t")
    await recorded.set_status(record.run_id, RunStatus.error, error="boom")
    assert record.error == "boom"
    assert (await row(recorded, record.run_id))["error"] == "boom"


async def test_status_of_unknown_run_is_logged_and_ignored(
    manager: RunManager, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        await manager.set_status("no-such-run", RunStatus.running)
    assert "no-such-run" in caplog.text
    assert await manager.get("no-such-run") is None


async def test_set_status_running_after_a_cancel_stops_the_task(manager: RunManager) -> None:
    record = await manager.create_or_reject("t")
    await manager.cancel(record.run_id)
    began = False

    async def work() -> None:
        nonlocal began
        await manager.set_status(record.run_id, RunStatus.running)
        await asyncio.sleep(0)
        began = True

    record.task = asyncio.create_task(work())
    await asyncio.wait([record.task])
    assert record.task.cancelled()
    assert not began
    assert record.status is RunStatus.interrupted
    assert record.abort_event.is_set()


async def test_start_returns_whether_the_run_may_run(manager: RunManager) -> None:
    first, second = await manager.create("t"), await manager.create("u")
    assert await manager.start(first.run_id) is True
    assert await manager.start(first.run_id) is True
    assert first.status is RunStatus.running
    await manager.cancel(second.run_id)
    assert await manager.start(second.run_id) is False
    assert await manager.start("no-such-run") is False


async def test_cancel_during_the_start_write_takes_precedence(
    plain: RunManager, store: MemoryRunStore
) -> None:
    record = await plain.create_or_reject("t")
    original = store.update_status

    async def update_status(run_id: str, status: str, *, error: str | None = None) -> bool:
        updated = await original(run_id, status, error=error)
        if status == "running":
            assert await plain.cancel(run_id)
        return updated

    store.update_status = update_status
    await plain.set_status(record.run_id, RunStatus.running)
    assert record.status is RunStatus.interrupted
    stored = await store.get(record.run_id)
    assert stored is not None
    assert stored["status"] == "interrupted"
    assert not await plain.has_inflight("t")


async def test_late_start_write_does_not_replace_a_terminal_status() -> None:
    """The record store accepts every status, also over a terminal one."""

    class Gullible(MemoryRunStore):
        def __init__(self) -> None:
            super().__init__()
            self.slow, self.release = asyncio.Event(), asyncio.Event()

        async def update_status(self, run_id: str, status: str, *, error: str | None = None) -> bool:
            if status == "running":
                self.slow.set()
                await self.release.wait()
            self._runs[run_id]["status"] = status
            return True

    store = Gullible()
    async with managing(store) as manager:
        record = await manager.create_or_reject("t")
        starting = asyncio.create_task(manager.set_status(record.run_id, RunStatus.running))
        await store.slow.wait()
        assert await manager.cancel(record.run_id)
        store.release.set()
        await starting
        assert rows_of(store)[record.run_id]["status"] == "interrupted"
        assert record.status is RunStatus.interrupted


# -- a task that sets the status of its own run


async def test_run_settles_when_the_task_that_ended_it_is_done(manager: RunManager) -> None:
    record = await manager.create_or_reject("t")
    decided, leave = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        await manager.set_status(record.run_id, RunStatus.running)
        await manager.set_status(record.run_id, RunStatus.success)
        decided.set()
        await leave.wait()

    record.task = asyncio.create_task(work())
    await decided.wait()
    assert record.status is RunStatus.success
    assert await manager.has_inflight("t")
    leave.set()
    await record.task
    assert not await manager.has_inflight("t")


@pytest.mark.parametrize("strategy", ["reject", "interrupt", "enqueue"])
async def test_thread_is_free_when_the_awaited_task_is_done(manager: RunManager, strategy: str) -> None:
    record = await manager.create_or_reject("t")

    async def work() -> None:
        await manager.set_status(record.run_id, RunStatus.running)
        await manager.set_status(record.run_id, RunStatus.success)

    record.task = asyncio.create_task(work())
    await record.task
    new = await manager.create_or_reject("t", multitask_strategy=strategy)
    await manager.set_status(new.run_id, RunStatus.running)
    assert (record.status, new.status) == (RunStatus.success, RunStatus.running)


async def test_task_attached_after_the_start_settles_its_run(manager: RunManager) -> None:
    record = await running(manager)

    async def work() -> None:
        await manager.set_status(record.run_id, RunStatus.error, error="boom")

    record.task = asyncio.create_task(work())
    await record.task
    assert not await manager.has_inflight("t")
    assert (record.status, record.error) == (RunStatus.error, "boom")


async def test_run_is_in_flight_until_its_task_stops_after_set_status(manager: RunManager) -> None:
    record = await running(manager)
    work = await working(record)
    await manager.set_status(record.run_id, RunStatus.success)
    assert record.status is RunStatus.success
    assert work.cancels == 0
    assert await manager.has_inflight("t")
    work.release.set()
    await work.task
    assert not await manager.has_inflight("t")


async def test_set_status_completes_after_its_caller_is_cancelled(
    plain: RunManager, store: MemoryRunStore
) -> None:
    record = await running(plain)
    held = hold_calls(store, "update_status")
    ending = asyncio.create_task(plain.set_status(record.run_id, RunStatus.success))
    await held.reached.wait()
    ending.cancel()
    held.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert record.status is RunStatus.success
    assert (await row(plain, record.run_id))["status"] == "success"
    assert not await plain.has_inflight("t")


async def test_run_that_lost_its_ownership_shows_an_error_and_is_not_written(
    recorded: RunManager,
) -> None:
    record = await running(recorded)
    work = await working(record)
    entry = assembly_of(recorded).shared.registry.entry(record.run_id)
    assert entry is not None
    assembly_of(recorded).runs.settlement.lose(entry, "taken over")
    before = await row(recorded, record.run_id)
    assert record.status is RunStatus.error
    assert record.abort_event.is_set()
    await work.unwinding.wait()
    await recorded.set_status(record.run_id, RunStatus.success)
    await recorded.update_model_name(record.run_id, "m")
    await recorded.update_run_completion(record.run_id, status="success", total_tokens=9)
    await recorded.update_run_progress(record.run_id, total_tokens=9)
    assert await row(recorded, record.run_id) == before
    work.unwound.set()
    await asyncio.wait([work.task])


async def test_start_of_a_finished_run_returns_false(manager: RunManager) -> None:
    record = await running(manager)
    assert await manager.start(record.run_id) is True
    await manager.set_status(record.run_id, RunStatus.success)
    assert await manager.start(record.run_id) is False
