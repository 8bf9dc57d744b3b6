"""Ten faults of a registry that was made for one process. The run manager has none of them.

Each scenario tries to provoke its fault and returns whether it occurred. It runs twice: on a naive registry
(`tests.support.naive`), which shows that the scenario can provoke the fault, and on the run manager, where
the fault must not occur.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from coordinator import ConflictError, MemoryRunStore, RunManager, RunStatus, Settings
from tests.support.held import hold_calls
from tests.support.inside import records_of
from tests.support.naive import NaiveRegistry

Managing = Callable[[MemoryRunStore], Any]
Scenario = Callable[[Managing], Awaitable[bool]]

LOST = "The gateway was restarted"
QUICK = Settings(tick=0.05, short_tick=0.05, keep_finished=0)


def _naive(store: MemoryRunStore) -> NaiveRegistry:
    return NaiveRegistry(store)


def _ours(store: MemoryRunStore) -> RunManager:
    return RunManager(store, settings=QUICK)


@asynccontextmanager
async def _workers(make: Managing, count: int) -> AsyncGenerator[list[Any]]:
    """`count` gateway workers on one store."""
    store = MemoryRunStore()
    workers = [make(store) for _ in range(count)]
    try:
        yield [store, *workers]
    finally:
        for worker in workers:
            await worker.shutdown(timeout=0)
            await worker.aclose()


async def _running(worker: Any, thread_id: str = "t", **fields: Any) -> Any:
    record = await worker.create_or_reject(thread_id, **fields)
    await worker.set_status(record.run_id, RunStatus.running)
    return record


async def _is_admitted(worker: Any, thread_id: str) -> bool:
    try:
        await worker.create_or_reject(thread_id)
    except ConflictError:
        return False
    return True


async def a_cancel_elsewhere_is_no_cancel(make: Managing) -> bool:
    """1. Cancel on a worker that does not own the run returns False, and the run continues."""
    async with _workers(make, 2) as (_, owner, other):
        record = await _running(owner)
        stopped = asyncio.Event()

        async def work() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                stopped.set()

        record.task = asyncio.create_task(work())
        await asyncio.sleep(0)
        acknowledged = await other.cancel(record.run_id)
        try:
            await asyncio.wait_for(stopped.wait(), 2 if acknowledged else 0.1)
        except TimeoutError:
            record.task.cancel()
            return True
        return not acknowledged


async def two_workers_admit_one_thread(make: Managing) -> bool:
    """2. Two workers `reject` on one thread: two active runs."""
    async with _workers(make, 2) as (_, one, other):
        return all(await asyncio.gather(_is_admitted(one, "t"), _is_admitted(other, "t")))


async def a_third_workers_reconcile_ends_live_runs(make: Managing) -> bool:
    """3. A third worker's startup reconcile marks live runs `error`."""
    async with _workers(make, 3) as (store, one, other, third):
        runs = [await _running(one, "a"), await _running(other, "b")]
        await third.reconcile_orphaned_inflight_runs(error=LOST)
        statuses = [(await store.get(record.run_id))["status"] for record in runs]
        return statuses != ["running", "running"]


async def running_after_a_cancel_brings_the_run_back(make: Managing) -> bool:
    """4. `set_status(running)` after a cancel brings the run back."""
    async with _workers(make, 1) as (store, worker):
        record = await worker.create_or_reject("t")
        await worker.cancel(record.run_id)
        await worker.set_status(record.run_id, RunStatus.running)
        return "running" in (record.status, (await store.get(record.run_id))["status"])


async def an_end_is_not_the_end(make: Managing) -> bool:
    """5. Terminal -> running is allowed."""
    async with _workers(make, 1) as (_, worker):
        reopened = False
        for end in (RunStatus.success, RunStatus.error, RunStatus.timeout):
            record = await _running(worker, end.value)
            await worker.set_status(record.run_id, end)
            await worker.set_status(record.run_id, RunStatus.running)
            reopened |= record.status is not end
        return reopened


async def an_old_run_in_memory_hides_a_new_one(make: Managing) -> bool:
    """6. `list_by_thread(limit=1)` hides the newest run behind an older one in memory."""
    async with _workers(make, 2) as (_, one, other):
        old = await _running(one)
        await one.set_status(old.run_id, RunStatus.success)
        new = await other.create_or_reject("t")
        return [record.run_id for record in await one.list_by_thread("t", limit=1)] != [new.run_id]


async def the_next_run_overlaps_the_last(make: Managing) -> bool:
    """7. A new run starts while the old one is still unwinding or rolling back."""
    async with _workers(make, 2) as (_, one, other):
        old = await _running(one)
        begun, unwinding, restored = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def work() -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                unwinding.set()
                await restored.wait()

        old.task = asyncio.create_task(work())
        await begun.wait()
        new = await one.create_or_reject("t", multitask_strategy="rollback")
        starting = asyncio.create_task(one.set_status(new.run_id, RunStatus.running))
        await unwinding.wait()
        await asyncio.wait((starting,), timeout=0.2)
        overlapped = new.status is RunStatus.running
        overlapped |= await _is_admitted(other, "t")
        restored.set()
        await asyncio.wait((old.task, starting))
        return overlapped or new.status is not RunStatus.running


async def a_slow_insert_delays_unrelated_calls(make: Managing) -> bool:
    """8. One lock is held across the insert: a slow one delays an unrelated `get()`."""
    async with _workers(make, 1) as (store, worker):
        record = await _running(worker)
        held = hold_calls(store, "put")
        admitting = asyncio.create_task(worker.create_or_reject("slow"))
        await held.reached.wait()
        reading = asyncio.create_task(worker.get(record.run_id))
        done, _ = await asyncio.wait((reading,), timeout=0.2)
        held.go_on.set()
        await asyncio.gather(admitting, reading)
        return not done


async def finished_runs_pile_up(make: Managing) -> bool:
    """9. Every admission scans all runs in memory; finished runs are never evicted."""
    async with _workers(make, 1) as (_, worker):
        for number in range(50):
            record = await _running(worker, f"t{number}")
            await worker.set_status(record.run_id, RunStatus.success)
        await worker.create_or_reject("t")
        return len(records_of(worker)) > 5


async def a_record_of_another_user_is_shown(make: Managing) -> bool:
    """10. `get()` answers with an in-memory record of another user."""
    async with _workers(make, 1) as (_, worker):
        record = await worker.create_or_reject("t", user_id="ann")
        assert await worker.get(record.run_id, user_id="ann") is record
        return await worker.get(record.run_id, user_id="bob") is not None


FAULTS: list[Scenario] = [
    a_cancel_elsewhere_is_no_cancel,
    two_workers_admit_one_thread,
    a_third_workers_reconcile_ends_live_runs,
    running_after_a_cancel_brings_the_run_back,
    an_end_is_not_the_end,
    an_old_run_in_memory_hides_a_new_one,
    the_next_run_overlaps_the_last,
    a_slow_insert_delays_unrelated_calls,
    finished_runs_pile_up,
    a_record_of_another_user_is_shown,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_scenario_finds_its_fault_in_a_registry_for_one_process(fault: Scenario) -> None:
    assert await fault(_naive)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_run_manager_does_not_have_the_fault(fault: Scenario) -> None:
    assert not await fault(_ours)
