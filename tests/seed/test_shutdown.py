"""shutdown is no cancel: tasks may finish until the timeout. Then they are cancelled, and their runs
interrupted."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import pytest

from coordinator import Draining, MemoryRunStore, RunManager, RunRecord, RunStatus
from tests.support.runs import row, running, working


async def test_repeated_shutdown_of_an_idle_manager_is_quick(manager: RunManager) -> None:
    began = time.monotonic()
    for _ in range(2):
        await manager.shutdown(timeout=5)
        await manager.aclose()
    assert time.monotonic() - began < 2


async def test_unused_manager_can_be_shut_down() -> None:
    manager = RunManager()
    await manager.shutdown()
    await manager.aclose()


async def test_no_run_is_admitted_after_shutdown(manager: RunManager) -> None:
    await manager.shutdown(timeout=0)
    for admitting in (manager.create("t"), manager.create_or_reject("t")):
        with pytest.raises(Draining):
            await admitting


async def test_run_that_finishes_before_the_timeout_keeps_its_status(recorded: RunManager) -> None:
    record = await running(recorded)
    release = asyncio.Event()

    async def work() -> None:
        await release.wait()
        await recorded.set_status(record.run_id, RunStatus.success)

    record.task = asyncio.create_task(work())
    stopping = asyncio.create_task(recorded.shutdown(timeout=30))
    await asyncio.sleep(0)
    release.set()
    await stopping
    assert record.task.done()
    assert not record.task.cancelled()
    assert (await row(recorded, record.run_id))["status"] == "success"


async def test_task_that_reports_success_while_it_unwinds_keeps_that_status(recorded: RunManager) -> None:
    record = await running(recorded)

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await recorded.set_status(record.run_id, RunStatus.success)

    record.task = asyncio.create_task(work())
    await asyncio.sleep(0)
    await recorded.shutdown(timeout=0)
    assert record.status is RunStatus.success
    assert (await row(recorded, record.run_id))["status"] == "success"


async def test_task_that_stops_without_a_status_is_interrupted(recorded: RunManager) -> None:
    record = await running(recorded)
    work = await working(record)
    work.unwound.set()
    await recorded.shutdown(timeout=0)
    assert work.task.cancelled()
    assert record.status is RunStatus.interrupted
    assert (await row(recorded, record.run_id))["status"] == "interrupted"
    assert not await recorded.has_inflight("t")


async def test_runs_without_a_task_are_interrupted(recorded: RunManager) -> None:
    records: list[RunRecord] = [await recorded.create("a"), await running(recorded, "b")]
    records.append(await recorded.create_or_reject("b", multitask_strategy="enqueue"))
    await recorded.shutdown(timeout=0)
    assert [record.status for record in records] == [RunStatus.interrupted] * 3
    for record in records:
        assert (await row(recorded, record.run_id))["status"] == "interrupted"


async def test_shutdown_is_bounded_if_a_task_ignores_its_cancel(manager: RunManager) -> None:
    record = await running(manager)
    work = await working(record)
    began = time.monotonic()
    await manager.shutdown(timeout=0.1)
    assert time.monotonic() - began < 2
    assert record.status is RunStatus.interrupted
    assert record.abort_event.is_set()
    work.unwound.set()
    await asyncio.wait([work.task])


async def test_run_can_be_cancelled_while_the_worker_drains(manager: RunManager) -> None:
    record = await running(manager)
    work = await working(record)
    stopping = asyncio.create_task(manager.shutdown(timeout=30))
    await asyncio.sleep(0)
    assert await manager.cancel(record.run_id) is True
    work.unwound.set()
    await asyncio.wait_for(stopping, 5)
    assert record.status is RunStatus.interrupted


async def test_status_that_is_only_set_on_the_record_is_kept(recorded: RunManager) -> None:
    record = await running(recorded)
    work = await working(record)
    record.status = RunStatus.success
    stopping = asyncio.create_task(recorded.shutdown(timeout=30))
    await asyncio.sleep(0)
    assert not stopping.done()
    work.release.set()
    await stopping
    assert not work.task.cancelled()
    assert record.status is RunStatus.success
    assert (await row(recorded, record.run_id))["status"] == "success"


async def test_failed_write_of_the_last_status_is_logged_with_the_run(
    plain: RunManager, store: MemoryRunStore, caplog: pytest.LogCaptureFixture
) -> None:
    record = await running(plain)
    work = await working(record)
    work.unwound.set()

    async def update_status(*args: Any, **fields: Any) -> bool:
        raise RuntimeError("away")

    store.update_status = update_status
    with caplog.at_level(logging.WARNING):
        await plain.shutdown(timeout=0)
    assert f"Could not persist interrupted status for run {record.run_id!r}" in caplog.text
    assert record.status is RunStatus.interrupted
