"""create_or_reject: a thread has one run at a time, and no run is orphaned if the caller is cancelled."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from coordinator import (
    ConflictError,
    CoordinatorError,
    IdempotencyConflict,
    MemoryRunStore,
    RunManager,
    RunStatus,
    ThreadNotFound,
    UnsupportedStrategyError,
)
from stores.base import Row
from tests.support.inside import records_of
from tests.support.runs import managing, row, running, working

REPLACING = ["interrupt", "rollback"]


async def test_admitted_run_is_pending_and_stored(recorded: RunManager) -> None:
    record = await recorded.create_or_reject("t", "lead", model_name="m-1", metadata={"k": "v"})
    stored = await row(recorded, record.run_id)
    assert record.status is RunStatus.pending
    assert (stored["status"], stored["model_name"], stored["metadata"]) == ("pending", "m-1", {"k": "v"})


async def test_reject_refuses_while_a_run_is_in_flight(manager: RunManager) -> None:
    first = await manager.create_or_reject("t")
    for _ in range(2):
        with pytest.raises(ConflictError, match="already has an active run") as refused:
            await manager.create_or_reject("t")
        assert (refused.value.thread_id, refused.value.active_run_id) == ("t", first.run_id)
        await manager.set_status(first.run_id, RunStatus.running)
    assert await manager.list_by_thread("t") == [first]
    await manager.create_or_reject("another thread")


async def test_one_of_many_concurrent_admissions_succeeds(manager: RunManager) -> None:
    answers = await asyncio.gather(
        *(manager.create_or_reject("t") for _ in range(20)), return_exceptions=True
    )
    assert sum(not isinstance(answer, Exception) for answer in answers) == 1
    assert sum(isinstance(answer, ConflictError) for answer in answers) == 19
    assert len(await manager.list_by_thread("t")) == 1


async def test_refused_run_has_no_row(recorded: RunManager) -> None:
    await recorded.create_or_reject("t", user_id="ann")
    requests: list[dict[str, Any]] = [
        {},
        {"user_id": "bob"},
        {"user_id": "bob", "multitask_strategy": "interrupt"},
    ]
    for fields in requests:
        with pytest.raises(CoordinatorError):
            await recorded.create_or_reject("t", **fields)
    assert len(await recorded.store.list_by_thread("t")) == 1


@pytest.mark.parametrize("strategy", ["nonsense", "", None, 3])
async def test_refusal_of_unknown_strategy_lists_the_supported_ones(
    manager: RunManager, strategy: Any
) -> None:
    with pytest.raises(UnsupportedStrategyError, match=r"not yet supported.*supported strategies") as refused:
        await manager.create_or_reject("t", multitask_strategy=strategy)
    assert set(refused.value.supported) == {"reject", "interrupt", "rollback", "enqueue"}
    assert all(name in str(refused.value) for name in refused.value.supported)
    assert await manager.list_by_thread("t") == []


@pytest.mark.parametrize("strategy", REPLACING)
async def test_runs_in_flight_are_cancelled_with_the_action(recorded: RunManager, strategy: str) -> None:
    old = await running(recorded)
    new = await recorded.create_or_reject("t", multitask_strategy=strategy)
    assert new.status is RunStatus.pending
    assert (old.status, old.abort_action) == (RunStatus.interrupted, strategy)
    assert old.abort_event.is_set()
    assert (await row(recorded, old.run_id))["status"] == "interrupted"
    assert (await row(recorded, new.run_id))["status"] == "pending"


@pytest.mark.parametrize("strategy", REPLACING)
async def test_replacing_strategies_admit_runs_on_idle_threads(manager: RunManager, strategy: str) -> None:
    record = await manager.create_or_reject("t", multitask_strategy=strategy)
    await manager.set_status(record.run_id, RunStatus.running)
    assert record.status is RunStatus.running


@pytest.mark.parametrize("strategy", REPLACING)
async def test_new_run_waits_for_the_replaced_task_but_its_admission_does_not(
    manager: RunManager, strategy: str
) -> None:
    old = await running(manager)
    work = await working(old)
    new = await manager.create_or_reject("t", multitask_strategy=strategy)
    assert new.status is RunStatus.pending
    assert work.task.cancelling() == 1
    starting = asyncio.create_task(manager.set_status(new.run_id, RunStatus.running))
    await work.unwinding.wait()
    await asyncio.sleep(0)
    assert not starting.done()
    assert new.status is RunStatus.pending
    work.unwound.set()
    await starting
    assert new.status is RunStatus.running
    assert work.task.done()


async def test_queued_runs_begin_in_the_order_of_their_admission(manager: RunManager) -> None:
    first = await running(manager)
    queued = [await manager.create_or_reject("t", multitask_strategy="enqueue") for _ in range(3)]
    order: list[str] = []

    async def take_turn(run_id: str) -> None:
        await manager.set_status(run_id, RunStatus.running)
        order.append(run_id)
        await manager.set_status(run_id, RunStatus.success)

    turns = [asyncio.create_task(take_turn(record.run_id)) for record in reversed(queued)]
    await asyncio.sleep(0)
    assert order == []
    await manager.set_status(first.run_id, RunStatus.success)
    await asyncio.gather(*turns)
    assert order == [record.run_id for record in queued]


async def test_run_whose_status_the_caller_set_to_running_is_replaced(manager: RunManager) -> None:
    old = [await manager.create("t"), await manager.create("t")]
    for record in old:
        record.status = RunStatus.running
    new = await manager.create_or_reject("t", multitask_strategy="interrupt")
    assert [record.status for record in old] == [RunStatus.interrupted] * 2
    assert new.status is RunStatus.pending


async def test_thread_belongs_to_the_user_of_its_first_run(manager: RunManager) -> None:
    record = await manager.create_or_reject("t", user_id="ann")
    await manager.set_status(record.run_id, RunStatus.success)
    with pytest.raises(ThreadNotFound):
        await manager.create_or_reject("t", user_id="bob")
    await manager.create_or_reject("t")  # system scope


async def test_repeated_idempotency_key_returns_the_first_run(manager: RunManager) -> None:
    first = await manager.create_or_reject("t", kwargs={"q": 1}, idempotency_key="k")
    again = await manager.create_or_reject("t", kwargs={"q": 1}, idempotency_key="k")
    assert again.run_id == first.run_id
    assert (first.already_admitted, again.already_admitted) == (False, True)
    assert len(await manager.list_by_thread("t")) == 1


@pytest.mark.parametrize(
    ("thread_id", "fields"),
    [("t", {"kwargs": {"q": 2}}), ("u", {"kwargs": {"q": 1}}), ("u", {"kwargs": {"q": 1}, "user_id": "ann"})],
    ids=["another body", "another thread", "another thread of the user"],
)
async def test_idempotency_key_of_another_request_is_a_conflict(
    manager: RunManager, thread_id: str, fields: dict[str, Any]
) -> None:
    user = fields.get("user_id")
    await manager.create_or_reject("t", kwargs={"q": 1}, idempotency_key="k", user_id=user)
    with pytest.raises(IdempotencyConflict):
        await manager.create_or_reject(thread_id, idempotency_key="k", **fields)


# -- the insert fails


@pytest.mark.parametrize("strategy", REPLACING)
@pytest.mark.parametrize("failure", [RuntimeError("the database is gone"), asyncio.CancelledError()])
async def test_failed_insert_leaves_the_replaced_run_unchanged(
    plain: RunManager, store: MemoryRunStore, strategy: str, failure: BaseException
) -> None:
    old = await running(plain)
    calls = 0

    async def put(run_id: str, **fields: Any) -> None:
        nonlocal calls
        calls += 1
        raise failure

    store.put = put
    with pytest.raises(type(failure)):
        await plain.create_or_reject("t", multitask_strategy=strategy)
    assert calls == 1
    assert list(records_of(plain)) == [old.run_id]
    assert old.status is RunStatus.running
    assert not old.abort_event.is_set()
    assert [stored["status"] for stored in await store.list_by_thread("t")] == ["running"]


async def test_unique_violation_is_a_conflict_after_three_attempts(
    plain: RunManager, store: MemoryRunStore
) -> None:
    calls = 0

    async def put(run_id: str, **fields: Any) -> None:
        nonlocal calls
        calls += 1
        violation = sqlite3.IntegrityError("UNIQUE constraint failed: runs.thread_id")
        violation.sqlite_errorcode = sqlite3.SQLITE_CONSTRAINT_UNIQUE
        raise violation

    store.put = put
    with pytest.raises(ConflictError):
        await plain.create_or_reject("t")
    assert calls == 3
    assert not await plain.has_inflight("t")


async def test_transient_unique_violation_is_no_conflict(plain: RunManager, store: MemoryRunStore) -> None:
    put, failures = store.put, [1, 2]

    class Violation(Exception):
        sqlstate = "23505"

    async def put_later(run_id: str, **fields: Any) -> None:
        if failures:
            failures.pop()
            raise RuntimeError("insert failed") from Violation()
        await put(run_id, **fields)

    store.put = put_later
    assert (await plain.create_or_reject("t")).status is RunStatus.pending


# -- the caller is cancelled

Point = Callable[[MemoryRunStore, asyncio.Event], None]


def _before_put(store: MemoryRunStore, reached: asyncio.Event) -> None:
    async def put(run_id: str, **fields: Any) -> None:
        reached.set()
        await asyncio.Event().wait()

    store.put = put


def _after_put(store: MemoryRunStore, reached: asyncio.Event) -> None:
    original = store.put

    async def put(run_id: str, **fields: Any) -> None:
        await original(run_id, **fields)
        reached.set()
        await asyncio.Event().wait()

    store.put = put


def _while_the_old_run_is_written(store: MemoryRunStore, reached: asyncio.Event) -> None:
    original = store.update_status

    async def update_status(run_id: str, status: str, *, error: str | None = None) -> bool:
        if not reached.is_set():
            reached.set()
            await asyncio.sleep(0)
        return await original(run_id, status, error=error)

    store.update_status = update_status


@pytest.mark.parametrize("strategy", REPLACING)
@pytest.mark.parametrize("point", [_before_put, _after_put, _while_the_old_run_is_written])
async def test_cancelled_admission_leaves_no_run_in_flight(
    plain: RunManager, store: MemoryRunStore, point: Point, strategy: str
) -> None:
    old = await running(plain)
    put, update_status, reached = store.put, store.update_status, asyncio.Event()
    point(store, reached)
    admitting = asyncio.create_task(plain.create_or_reject("t", multitask_strategy=strategy))
    await reached.wait()
    admitting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await admitting
    store.put, store.update_status = put, update_status

    new = [record for record in await plain.list_by_thread("t") if record is not old]
    stored = {each["run_id"]: each["status"] for each in await store.list_by_thread("t")}
    if point is _before_put:
        assert new == []
        assert old.status is RunStatus.running
    else:
        assert [record.status for record in new] == [RunStatus.interrupted]
        assert new[0].abort_event.is_set()
        assert stored[new[0].run_id] == "interrupted"
    if point is _while_the_old_run_is_written:
        assert (old.status, stored[old.run_id]) == (RunStatus.interrupted, "interrupted")
        assert old.abort_event.is_set()
        assert not await plain.has_inflight("t")
        await plain.create_or_reject("t")


async def test_repeated_cancellation_does_not_stop_the_cleanup_of_an_admission(
    plain: RunManager, store: MemoryRunStore
) -> None:
    old = await running(plain)
    original, release = store.update_status, asyncio.Event()
    first, second = asyncio.Event(), asyncio.Event()

    async def update_status(run_id: str, status: str, *, error: str | None = None) -> bool:
        (first if run_id == old.run_id else second).set()
        await release.wait()
        return await original(run_id, status, error=error)

    store.update_status = update_status
    admitting = asyncio.create_task(plain.create_or_reject("t", multitask_strategy="interrupt"))
    await first.wait()
    new = next(record for record in records_of(plain).values() if record is not old)
    admitting.cancel()
    await second.wait()
    for _ in range(3):
        admitting.cancel()
        await asyncio.sleep(0)
    assert not admitting.done()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await admitting
    assert (old.status, new.status) == (RunStatus.interrupted, RunStatus.interrupted)
    assert {stored["status"] for stored in await store.list_by_thread("t")} == {"interrupted"}
    assert not await plain.has_inflight("t")


async def test_failed_cleanup_write_keeps_the_cancellation_and_is_retried(
    plain: RunManager, store: MemoryRunStore
) -> None:
    original, put, reached, written = store.update_status, store.put, asyncio.Event(), asyncio.Event()
    failures = [1, 2]

    async def slow_put(run_id: str, **fields: Any) -> None:
        await put(run_id, **fields)
        reached.set()
        await asyncio.Event().wait()

    async def update_status(run_id: str, status: str, *, error: str | None = None) -> bool:
        if failures:
            failures.pop()
            raise RuntimeError("away")
        updated = await original(run_id, status, error=error)
        written.set()
        return updated

    store.put, store.update_status = slow_put, update_status
    admitting = asyncio.create_task(plain.create_or_reject("t"))
    await reached.wait()
    admitting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await admitting
    assert not await plain.has_inflight("t")
    await asyncio.wait_for(written.wait(), 5)
    assert [stored["status"] for stored in await store.list_by_thread("t")] == ["interrupted"]


@pytest.mark.parametrize("turns", range(12))
@pytest.mark.parametrize("strategy", ["reject", "interrupt"])
async def test_admission_that_is_cancelled_after_some_loop_turns_frees_its_thread(
    manager: RunManager, turns: int, strategy: str
) -> None:
    if strategy == "interrupt":
        await running(manager)
    admitting = asyncio.create_task(manager.create_or_reject("t", multitask_strategy=strategy))
    for _ in range(turns):
        await asyncio.sleep(0)
    admitting.cancel()
    admitted = (await asyncio.gather(admitting, return_exceptions=True))[0]
    if not isinstance(admitted, BaseException):
        await manager.set_status(admitted.run_id, RunStatus.success)
    for record in await manager.list_by_thread("t"):
        if record.status is RunStatus.running:
            await manager.set_status(record.run_id, RunStatus.success)
    assert not await manager.has_inflight("t")
    await manager.create_or_reject("t")


# -- two managers on one record store


async def test_managers_on_one_record_store_agree(store: MemoryRunStore) -> None:
    async with managing(store) as one, managing(store) as other:
        answers = await asyncio.gather(
            *(manager.create_or_reject("t") for manager in (one, other) * 5), return_exceptions=True
        )
        assert sum(not isinstance(answer, Exception) for answer in answers) == 1
        assert await one.has_inflight("t")
        assert await other.has_inflight("t")
        assert len(await store.list_by_thread("t")) == 1


async def test_concurrent_inserts_of_two_managers_leave_one_row(store: MemoryRunStore) -> None:
    put = store.put

    async def slow_put(run_id: str, **fields: Any) -> None:
        await asyncio.sleep(0)
        await put(run_id, **fields)

    store.put = slow_put
    async with managing(store) as one, managing(store) as other:

        async def admit(manager: RunManager) -> Awaitable[Row] | Any:
            return await manager.create_or_reject("t")

        answers = await asyncio.gather(admit(one), admit(other), return_exceptions=True)
        assert sorted(type(answer).__name__ for answer in answers) == ["ConflictError", "RunRecord"]
        assert len(await store.list_by_thread("t")) == 1
