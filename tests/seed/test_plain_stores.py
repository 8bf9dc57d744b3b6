"""Record stores that existing callers pass: which calls they receive, and which never."""

from __future__ import annotations

import asyncio
import sqlite3
from datetime import datetime
from typing import Any

import pytest

from coordinator import (
    ConflictError,
    MemoryRunStore,
    PersistenceRetryPolicy,
    QueueFull,
    RunManager,
    RunStatus,
    RunStore,
    Settings,
    ThreadNotFound,
)
from stores.base import RecordStore, Row
from stores.plain import PlainStore
from tests.support.inside_stores import arrivals_in
from tests.support.runs import managing, row, running
from tests.support.waiting import wait_until

LOCKED = "database is locked"


class Strict:
    """A store with only the documented operations and exactly their signatures."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.calls: list[str] = []

    async def put(
        self,
        run_id: str,
        *,
        thread_id: str,
        assistant_id: str | None,
        status: str,
        multitask_strategy: str,
        metadata: dict[str, Any],
        kwargs: dict[str, Any],
        error: str | None,
        created_at: str,
        model_name: str | None,
        user_id: str | None = None,
    ) -> None:
        self.calls.append("put")
        fields = {name: value for name, value in locals().items() if name != "self"}
        self.rows[run_id] = {**self.rows.get(run_id, {}), **fields}

    async def get(self, run_id: str, *, user_id: str | None = None) -> Row | None:
        return self.rows.get(run_id)

    async def list_by_thread(self, thread_id: str, *, user_id: str | None = None, limit: int) -> list[Row]:
        return [stored for stored in self.rows.values() if stored["thread_id"] == thread_id][:limit]

    async def update_status(self, run_id: str, status: str, *, error: str | None = None) -> None:
        self.calls.append(f"status {status}")
        self.rows[run_id] |= {"status": status, "error": error}

    async def update_model_name(self, run_id: str, model_name: str | None) -> None:
        self.calls.append("model")
        self.rows[run_id]["model_name"] = model_name

    async def update_run_completion(self, run_id: str, *, status: str, **fields: Any) -> None:
        self.calls.append(f"completion {status}")
        self.rows[run_id] |= {"status": status, **fields}

    async def update_run_progress(self, run_id: str, **fields: Any) -> None:
        self.calls.append("progress")
        self.rows[run_id] |= fields

    async def list_inflight(self, *, before: str | None = None) -> list[Row]:
        return [stored for stored in self.rows.values() if stored["status"] in ("pending", "running")]

    async def delete(self, run_id: str) -> None:
        self.rows.pop(run_id, None)


async def test_tokens_are_aggregated_with_active_runs_only_if_requested() -> None:
    class Counting(Strict):
        async def aggregate_tokens_by_thread(self, thread_id: str, include_active: bool = False) -> Row:
            return {"include_active": include_active}

    async with managing(Counting()) as manager:
        store: Any = manager.store
        for active in (False, True):
            tokens = await store.aggregate_tokens_by_thread("t", include_active=active)
            assert tokens == {"include_active": active}


async def test_store_with_only_the_documented_operations_serves_one_process() -> None:
    store = Strict()
    assert isinstance(store, RecordStore)
    async with managing(store) as manager:
        record = await running(manager, user_id="ann", model_name="m")
        with pytest.raises(ConflictError):
            await manager.create_or_reject("t")
        await manager.update_run_progress(record.run_id, total_tokens=1)
        await manager.update_model_name(record.run_id, "n")
        await manager.update_run_completion(record.run_id, total_tokens=2)
        await manager.set_status(record.run_id, RunStatus.success)
        new = await manager.create_or_reject("t")
        await manager.cancel(new.run_id)
    assert store.calls == [
        "put",
        "status running",
        "progress",
        "model",
        "completion running",
        "status success",
        "put",
        "status interrupted",
    ]
    assert store.rows[record.run_id]["user_id"] == "ann"


async def test_update_that_returns_none_counts_as_applied() -> None:
    """An update that returns None does not report whether the row exists: no row is read or recreated."""
    store = Strict()
    async with managing(store) as manager:
        record = await running(manager)
        await manager.set_status(record.run_id, RunStatus.error, error="boom")
    assert store.calls.count("put") == 1
    assert (store.rows[record.run_id]["status"], store.rows[record.run_id]["error"]) == ("error", "boom")


def test_run_store_can_be_subclassed_without_constructor_arguments() -> None:
    class Mine(RunStore):
        pass

    assert isinstance(Mine(), RecordStore)
    RunManager(Mine())


async def test_store_methods_that_are_replaced_later_are_called(
    plain: RunManager, store: MemoryRunStore
) -> None:
    record = await plain.create_or_reject("t")
    seen: list[str] = []
    original = store.update_status

    async def update_status(run_id: str, status: str, **fields: Any) -> bool:
        seen.append(status)
        return await original(run_id, status, **fields)

    store.update_status = update_status
    await plain.set_status(record.run_id, RunStatus.running)
    assert seen == ["running"]


# -- status writes


async def test_transient_pressure_is_retried(plain: RunManager, store: MemoryRunStore) -> None:
    record = await plain.create_or_reject("t")
    original, failures = store.update_status, [sqlite3.OperationalError(LOCKED)] * 2
    attempts = 0

    async def update_status(run_id: str, status: str, *, error: str | None = None) -> bool:
        nonlocal attempts
        attempts += 1
        if failures:
            raise failures.pop()
        return await original(run_id, status, error=error)

    store.update_status = update_status
    await plain.set_status(record.run_id, RunStatus.running)
    await plain.set_status(record.run_id, RunStatus.success)
    assert (await row(plain, record.run_id))["status"] == "success"
    assert attempts == 4


async def test_put_is_retried_under_pressure(store: MemoryRunStore) -> None:
    original, failures = store.put, [sqlite3.OperationalError(LOCKED)] * 2

    async def put(run_id: str, **fields: Any) -> None:
        if failures:
            raise failures.pop()
        await original(run_id, **fields)

    store.put = put
    async with managing(store, persistence_retry_policy=PersistenceRetryPolicy(initial_delay=0)) as manager:
        record = await manager.create("t")
        assert (await row(manager, record.run_id))["status"] == "pending"


async def test_permanent_error_is_not_raised_and_the_write_is_retried_later(store: MemoryRunStore) -> None:
    original, attempts, away = store.update_status, 0, True

    async def update_status(run_id: str, status: str, *, error: str | None = None) -> bool:
        nonlocal attempts
        attempts += 1
        if away:
            raise RuntimeError("no such table")
        return await original(run_id, status, error=error)

    store.update_status = update_status
    async with managing(store) as manager:
        record = await manager.create("t")
        await manager.set_status(record.run_id, RunStatus.error, error="boom")
        assert attempts == 1
        assert record.status is RunStatus.error
        assert not await manager.has_inflight("t")
        away = False

        async def written() -> bool:
            return (await row(manager, record.run_id))["status"] == "error"

        await wait_until(written, description="the status is written by a retry")
        assert (await row(manager, record.run_id))["error"] == "boom"


async def test_pending_write_is_retried_when_the_manager_closes(store: MemoryRunStore) -> None:
    original, away = store.update_status, True

    async def update_status(run_id: str, status: str, *, error: str | None = None) -> bool:
        if away:
            raise RuntimeError("away")
        return await original(run_id, status, error=error)

    store.update_status = update_status
    manager = RunManager(store)
    record = await manager.create("t")
    await manager.set_status(record.run_id, RunStatus.success)
    away = False
    await manager.aclose()
    assert (await row(manager, record.run_id))["status"] == "success"


async def test_missing_row_is_recreated_from_the_record(plain: RunManager, store: MemoryRunStore) -> None:
    record = await plain.create("t", "lead", metadata={"k": "v"}, kwargs={"q": 1}, user_id="ann")
    await store.delete(record.run_id)
    await plain.set_status(record.run_id, RunStatus.error, error="boom")
    stored = await row(plain, record.run_id)
    assert (stored["status"], stored["error"], stored["user_id"]) == ("error", "boom", "ann")
    assert (stored["assistant_id"], stored["metadata"], stored["kwargs"]) == ("lead", {"k": "v"}, {"q": 1})
    assert stored["created_at"] == record.created_at


async def test_store_whose_updates_return_false_gets_one_row(store: MemoryRunStore) -> None:
    original, put, puts = store.update_status, store.put, 0

    async def update_status(run_id: str, status: str, *, error: str | None = None) -> bool:
        await original(run_id, status, error=error)
        return False

    async def counting_put(run_id: str, **fields: Any) -> None:
        nonlocal puts
        puts += 1
        await put(run_id, **fields)

    store.update_status, store.put = update_status, counting_put
    async with managing(store) as manager:
        record = await manager.create("t")
        await store.delete(record.run_id)
        await manager.set_status(record.run_id, RunStatus.error, error="boom")
        stored = await row(manager, record.run_id)
        assert (stored["status"], stored["error"]) == ("error", "boom")
        assert puts == 2


async def test_stored_terminal_status_is_not_overwritten(plain: RunManager, store: MemoryRunStore) -> None:
    record = await running(plain)
    await store.update_status(record.run_id, "success")
    await plain.set_status(record.run_id, RunStatus.error, error="late")
    stored = await row(plain, record.run_id)
    assert (stored["status"], stored["error"]) == ("success", None)


async def test_stored_terminal_status_is_read_with_the_user_id_of_the_run(
    plain: RunManager, store: MemoryRunStore
) -> None:
    """Such a store returns None for a user's row if the call does not pass `user_id`."""
    record = await running(plain, user_id="ann")
    await store.update_status(record.run_id, "success")
    original, puts = store.get, list[str]()

    async def get(run_id: str, *, user_id: str | None = None) -> Row | None:
        stored = await original(run_id)
        return stored if stored is not None and stored["user_id"] == user_id else None

    async def put(run_id: str, **fields: Any) -> None:
        puts.append(run_id)

    store.get, store.put = get, put
    await plain.set_status(record.run_id, RunStatus.error, error="late")
    stored = await store.get(record.run_id, user_id="ann")
    assert stored is not None
    assert (stored["status"], stored["error"]) == ("success", None)
    assert puts == []


async def test_record_of_a_timed_out_run_has_the_reason(plain: RunManager) -> None:
    record = await running(plain, timeout=0.02)

    async def timed_out() -> bool:
        return (await row(plain, record.run_id))["status"] == "timeout"

    await wait_until(timed_out, description="the time limit has ended the run", timeout=10)
    assert (await row(plain, record.run_id))["error"] == "it ran for longer than its time limit"


async def test_kwargs_that_are_not_json_are_put_as_text() -> None:
    store = Strict()
    async with managing(store) as manager:
        record = await manager.create("t", kwargs={"set": {1}, "nan": float("nan"), "fine": [1, "a"]})
        assert store.rows[record.run_id]["kwargs"] == {"set": "{1}", "nan": "nan", "fine": [1, "a"]}


# -- refusals leave no rows


async def test_refused_admission_is_never_put(plain: RunManager, store: MemoryRunStore) -> None:
    await plain.create_or_reject("t", user_id="ann", idempotency_key="k")
    puts: list[str] = []

    async def put(run_id: str, **fields: Any) -> None:
        puts.append(run_id)

    store.put = put
    with pytest.raises(ConflictError):
        await plain.create_or_reject("t")
    with pytest.raises(ThreadNotFound):
        await plain.create_or_reject("t", user_id="bob", multitask_strategy="interrupt")
    with pytest.raises(ConflictError):
        await plain.create_or_reject("t", user_id="ann", idempotency_key="k", kwargs={"other": 1})
    await plain.create_or_reject("t", user_id="ann", idempotency_key="k")
    assert puts == []


async def no_delete(run_id: str) -> None:
    del run_id
    raise NotImplementedError


@pytest.mark.parametrize("removes", [True, False])
async def test_record_of_an_admission_that_is_refused_after_the_put_is_removed_or_ends_as_error(
    store: MemoryRunStore, *, removes: bool
) -> None:
    """While the record is written, another admission fills the user's quota. A store without `delete` keeps
    the record."""
    put, reached, release = store.put, asyncio.Event(), asyncio.Event()
    if not removes:
        store.delete = no_delete
    async with managing(store, settings=Settings(max_waiting_per_user=1)) as manager:
        holder = await manager.create_or_reject("t", user_id="ann")
        await manager.create_or_reject("u", user_id="ann")

        async def slow_put(run_id: str, *, thread_id: str, **fields: Any) -> None:
            await put(run_id, thread_id=thread_id, **fields)
            if thread_id == "t":
                reached.set()
                await release.wait()

        store.put = slow_put
        slow = asyncio.create_task(manager.create_or_reject("t", user_id="ann", multitask_strategy="enqueue"))
        await reached.wait()
        await manager.create_or_reject("u", user_id="ann", multitask_strategy="enqueue")
        release.set()
        with pytest.raises(QueueFull):
            await slow
        others = [row for row in await store.list_by_thread("t") if row["run_id"] != holder.run_id]
        assert [(row["status"], row["error"]) for row in others] == (
            [] if removes else [("error", "The run was refused")]
        )


async def test_record_that_a_failed_put_has_written_can_be_cancelled(
    plain: RunManager, store: MemoryRunStore
) -> None:
    original = store.put

    async def put(run_id: str, **fields: Any) -> None:
        await original(run_id, **fields)
        raise RuntimeError("the answer was lost")

    store.put = put
    with pytest.raises(RuntimeError, match="the answer was lost"):
        await plain.create_or_reject("t")
    (left,) = await store.list_by_thread("t")
    assert left["status"] == "pending"
    assert await plain.cancel(left["run_id"])
    assert (await row(plain, left["run_id"]))["status"] == "interrupted"


async def test_slow_put_does_not_delay_admissions_of_other_threads(
    plain: RunManager, store: MemoryRunStore
) -> None:
    put, reached, release = store.put, asyncio.Event(), asyncio.Event()

    async def slow_put(run_id: str, *, thread_id: str, **fields: Any) -> None:
        if thread_id == "slow":
            reached.set()
            await release.wait()
        await put(run_id, thread_id=thread_id, **fields)

    store.put = slow_put
    slow = asyncio.create_task(plain.create_or_reject("slow"))
    await reached.wait()
    quick = await plain.create_or_reject("quick")
    assert await plain.get(quick.run_id) is quick
    assert not slow.done()
    release.set()
    await slow
    assert isinstance(plain.store, PlainStore)
    assert not arrivals_in(plain.store)


# -- MemoryRunStore


async def test_put_is_an_upsert(store: MemoryRunStore) -> None:
    await store.put("r", thread_id="t", status="pending", created_at="2026-01-01T00:00:00+00:00")
    await store.put("r", thread_id="t", status="running", metadata={"k": 1})
    stored = await store.get("r")
    assert stored is not None
    assert (stored["status"], stored["metadata"]) == ("running", {"k": 1})
    assert stored["created_at"] == "2026-01-01T00:00:00+00:00"


async def test_several_runs_in_flight_and_several_users_may_be_put_on_a_thread(store: MemoryRunStore) -> None:
    await store.put("a", thread_id="t", status="running", user_id="ann")
    await store.put("b", thread_id="t", status="pending", user_id="bob")
    await store.put("c", thread_id="t", status=None)
    assert {stored["run_id"] for stored in await store.list_inflight()} == {"a", "b", "c"}
    assert [stored["run_id"] for stored in await store.list_by_thread("t", user_id="bob")] == ["b"]
    assert await store.get("a", user_id="bob") is None


async def test_updates_return_whether_the_row_exists(store: MemoryRunStore) -> None:
    await store.put("r", thread_id="t", status="running")
    assert await store.update_status("unknown", "error") is False
    assert await store.update_model_name("unknown", "m") is False
    assert await store.update_run_completion("unknown", status="error") is False
    assert await store.update_run_progress("unknown", total_tokens=1) is False
    assert await store.update_run_progress("r", total_tokens=1) is True
    assert await store.update_run_completion("r", status="running", total_tokens=2) is True
    assert await store.update_status("r", "success") is True
    assert await store.update_run_progress("r", total_tokens=9) is False
    await store.delete("r")
    await store.delete("r")


async def test_completion_with_another_terminal_status_changes_nothing(store: MemoryRunStore) -> None:
    await store.put("r", thread_id="t", status="running")
    await store.update_status("r", "error", error="boom")
    assert await store.update_run_completion("r", status="success", error="other", total_tokens=5) is False
    assert await store.update_run_completion("r", status="error", total_tokens=5) is True
    stored = await store.get("r")
    assert stored is not None
    assert (stored["status"], stored["error"], stored["total_tokens"]) == ("error", "boom", 5)


async def test_lists_of_open_rows_are_oldest_first(store: MemoryRunStore) -> None:
    for number in (2, 0, 1):
        stamp = f"2026-01-01T00:00:0{number}"
        await store.put(f"r{number}", thread_id="t", status="pending", created_at=stamp)
    await store.put("running", thread_id="t", status="running", created_at="2026-01-01T00:00:03")
    assert [stored["run_id"] for stored in await store.list_pending()] == ["r0", "r1", "r2"]
    assert [stored["run_id"] for stored in await store.list_inflight()] == ["r0", "r1", "r2", "running"]
    early = await store.list_inflight(before="2026-01-01T00:00:02+00:00")
    assert [stored["run_id"] for stored in early] == ["r0", "r1"]


async def test_timestamps_are_iso_with_t_and_offset(store: MemoryRunStore) -> None:
    await store.put("r", thread_id="t", created_at="2026-01-01 10:00:00")
    stored = await store.get("r")
    assert stored is not None
    for name in ("created_at", "updated_at"):
        assert "T" in stored[name]
        assert datetime.fromisoformat(stored[name]).tzinfo is not None


@pytest.mark.parametrize(
    ("given", "stored"), [(None, None), ("  m ", "m"), ("x" * 200, "x" * 128), (12, "12")]
)
async def test_model_names_are_text_stripped_and_bounded(
    recorded: RunManager, given: Any, stored: Any
) -> None:
    store = recorded.store
    await store.put("r", thread_id="t", status="success", model_name=given)
    assert (await row(recorded, "r"))["model_name"] == stored
    await store.update_model_name("r", given)
    assert (await row(recorded, "r"))["model_name"] == stored


async def test_rows_do_not_change_with_the_callers_objects(store: MemoryRunStore) -> None:
    metadata = {"k": [1]}
    await store.put("r", thread_id="t", metadata=metadata)
    metadata["k"].append(2)
    stored = await store.get("r")
    assert stored is not None
    assert stored["metadata"] == {"k": [1]}


async def test_metadata_must_be_json(recorded: RunManager) -> None:
    with pytest.raises((TypeError, ValueError)):
        await recorded.store.put("r", thread_id="t", metadata={"k": object()})
    assert await recorded.store.get("r") is None


async def test_tokens_are_added_up_over_ended_runs(store: MemoryRunStore) -> None:
    rows = [
        ("a", "success", "m", {"total_tokens": 10, "total_input_tokens": 6, "lead_agent_tokens": 10}),
        ("b", "error", None, {"total_tokens": 5, "total_output_tokens": 5, "subagent_tokens": 5}),
        ("c", "running", "m", {"total_tokens": 100, "middleware_tokens": 100}),
        ("d", "interrupted", "m", {"total_tokens": 1000}),
    ]
    for run_id, status, model, counters in rows:
        await store.put(run_id, thread_id="t", status="running", model_name=model)
        await store.update_run_completion(run_id, status=status, **counters)
    assert await store.aggregate_tokens_by_thread("t") == {
        "total_tokens": 15,
        "total_input_tokens": 6,
        "total_output_tokens": 5,
        "total_runs": 2,
        "by_model": {"m": {"tokens": 10, "runs": 1}, "unknown": {"tokens": 5, "runs": 1}},
        "by_caller": {"lead_agent": 10, "subagent": 5, "middleware": 0},
    }
    active = await store.aggregate_tokens_by_thread("t", include_active=True)
    assert (active["total_tokens"], active["total_runs"]) == (115, 3)
    assert active["by_caller"] == {"lead_agent": 10, "subagent": 5, "middleware": 100}
    nothing = await store.aggregate_tokens_by_thread("nowhere")
    assert (nothing["total_runs"], nothing["by_model"]) == (0, {})
