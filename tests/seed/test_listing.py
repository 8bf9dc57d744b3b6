"""get, aget, list_by_thread, has_inflight: records in memory take precedence over rows of the store."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from coordinator import DisconnectMode, MemoryRunStore, RunManager, RunRecord, RunStatus
from tests.support.held import hold_calls
from tests.support.inside import records_of
from tests.support.inside_stores import rows_of
from tests.support.runs import managing, running

OLD, NEW = "2026-01-01T00:00:00+00:00", "2026-01-02T00:00:00+00:00"


async def _put(manager: RunManager, run_id: str, thread_id: str = "t", **fields: Any) -> None:
    await manager.store.put(
        run_id, **{"thread_id": thread_id, "status": "success", "created_at": OLD, **fields}
    )


# -- get


async def test_get_returns_the_record_that_create_returned(manager: RunManager) -> None:
    record = await manager.create("t")
    assert await manager.get(record.run_id) is record
    assert await manager.aget(record.run_id) is record
    assert (await manager.list_by_thread("t"))[0] is record


async def test_get_of_unknown_run_returns_none(manager: RunManager) -> None:
    assert await manager.get("unknown") is None
    assert await manager.aget("unknown") is None


async def test_run_without_record_is_read_from_the_store(recorded: RunManager) -> None:
    await _put(
        recorded,
        "past",
        assistant_id="lead",
        metadata={"from": "store"},
        kwargs={"q": 1},
        model_name="m",
        multitask_strategy="interrupt",
    )
    record = await recorded.get("past")
    assert record is not None
    assert (record.run_id, record.thread_id, record.assistant_id) == ("past", "t", "lead")
    assert (record.status, record.on_disconnect) == (RunStatus.success, DisconnectMode.cancel)
    assert (record.metadata, record.kwargs, record.model_name) == ({"from": "store"}, {"q": 1}, "m")
    assert record.multitask_strategy == "interrupt"
    assert record.store_only is True
    assert record.task is None
    assert "past" not in records_of(recorded)


async def test_null_columns_are_read_as_defaults(plain: RunManager) -> None:
    await _put(plain, "null", status=None)
    records = [await plain.get("null"), *(await plain.list_by_thread("t"))]
    for record in records:
        assert record is not None
        assert (record.status, record.on_disconnect) == (RunStatus.pending, DisconnectMode.cancel)


@pytest.mark.parametrize("missing", ["run_id", "thread_id"])
async def test_row_without_a_required_column_is_skipped(
    plain: RunManager, store: MemoryRunStore, missing: str
) -> None:
    """A gateway's own record store may return such rows."""
    for run_id in ("good", "bad"):
        await _put(plain, run_id)
    listed = store.list_by_thread

    async def list_by_thread(thread_id: str, **arguments: Any) -> list[dict[str, Any]]:
        rows = await listed(thread_id, **arguments)
        return [
            {name: value for name, value in row.items() if row["run_id"] == "good" or name != missing}
            for row in rows
        ]

    store.list_by_thread = list_by_thread
    assert [record.run_id for record in await plain.list_by_thread("t")] == ["good"]


async def test_record_in_memory_takes_precedence_over_a_changed_row(recorded: RunManager) -> None:
    record = await recorded.create("t")
    await recorded.store.put(record.run_id, thread_id="t", status="success")
    assert await recorded.get(record.run_id) is record
    assert record.status is RunStatus.pending


async def test_record_that_appears_during_the_read_takes_precedence(
    plain: RunManager, store: MemoryRunStore
) -> None:
    await store.put("r", thread_id="t", status="success", created_at=OLD)
    held = hold_calls(store, "get")
    getting = asyncio.create_task(plain.get("r"))
    await held.reached.wait()
    records_of(plain)["r"] = mine = RunRecord("r", "t", None, RunStatus.pending, DisconnectMode.cancel)
    held.go_on.set()
    assert await getting is mine


async def test_store_failure_is_raised_only_with_raise_on_store_error(
    plain: RunManager, store: MemoryRunStore
) -> None:
    async def get(run_id: str, *, user_id: str | None = None) -> None:
        raise RuntimeError("away")

    store.get = get
    assert await plain.get("r") is None
    assert await plain.aget("r") is None
    with pytest.raises(RuntimeError, match="away"):
        await plain.get("r", raise_on_store_error=True)


async def test_unknown_run_is_none_with_raise_on_store_error(manager: RunManager) -> None:
    assert await manager.get("unknown", raise_on_store_error=True) is None


@pytest.mark.parametrize("damage", [{"status": "exploded"}, {"on_disconnect": "explode"}])
async def test_unreadable_row_is_skipped(
    plain: RunManager, store: MemoryRunStore, damage: dict[str, str]
) -> None:
    for run_id in ("bad", "good"):
        await store.put(run_id, thread_id="t", status="success", created_at=OLD)
    rows_of(store)["bad"].update(damage)
    assert await plain.get("bad") is None
    assert [record.run_id for record in await plain.list_by_thread("t")] == ["good"]


async def test_users_see_their_own_runs_only(recorded: RunManager) -> None:
    await _put(recorded, "of-ann", user_id="ann")
    await _put(recorded, "of-bob", user_id="bob")
    mine = await recorded.create("t", user_id="ann")
    for user, expected in (
        ("ann", {"of-ann", mine.run_id}),
        ("bob", {"of-bob"}),
        (None, {"of-ann", "of-bob", mine.run_id}),
    ):
        listed = await recorded.list_by_thread("t", user_id=user)
        assert {record.run_id for record in listed} == expected
        for run_id in ("of-ann", "of-bob", mine.run_id):
            assert (await recorded.get(run_id, user_id=user) is not None) == (run_id in expected)


# -- list_by_thread


async def test_lists_are_newest_first_memory_and_store_merged(recorded: RunManager) -> None:
    await _put(recorded, "old")
    await _put(recorded, "newer", created_at=NEW)
    await _put(recorded, "elsewhere", thread_id="u")
    first, second = await recorded.create("t"), await recorded.create("t")
    listed = await recorded.list_by_thread("t")
    assert [record.run_id for record in listed] == [second.run_id, first.run_id, "newer", "old"]
    assert listed[0] is second
    assert [record.store_only for record in listed] == [False, False, True, True]


async def test_list_has_at_most_limit_runs(recorded: RunManager) -> None:
    for number in range(5):
        await _put(recorded, f"r{number}", created_at=f"2026-01-0{number + 1}T00:00:00+00:00")
    mine = await recorded.create("t")
    for limit, expected in ((0, []), (1, [mine.run_id]), (3, [mine.run_id, "r4", "r3"])):
        listed = await recorded.list_by_thread("t", limit=limit)
        assert [record.run_id for record in listed] == expected
    assert len(await recorded.list_by_thread("t")) == 6


async def test_limit_prefers_a_newer_stored_run_to_an_older_record_in_memory(recorded: RunManager) -> None:
    mine = await recorded.create("t")
    mine.created_at = OLD
    await _put(recorded, "newer", created_at=NEW)
    assert [record.run_id for record in await recorded.list_by_thread("t", limit=1)] == ["newer"]


async def test_runs_with_equal_timestamps_are_listed_in_order_of_insertion(manager: RunManager) -> None:
    records = [await manager.create("t") for _ in range(3)]
    for record in records:
        record.created_at = OLD
    assert await manager.list_by_thread("t") == records


async def test_naive_and_aware_timestamps_are_compared_as_instants(recorded: RunManager) -> None:
    await _put(recorded, "naive", created_at="2026-01-01T12:00:00")
    await _put(recorded, "aware", created_at="2026-01-01T13:30:00+02:00")  # half an hour earlier
    assert [record.run_id for record in await recorded.list_by_thread("t")] == ["naive", "aware"]


async def test_list_has_the_records_in_memory_if_the_store_fails(
    plain: RunManager, store: MemoryRunStore
) -> None:
    record = await plain.create("t")

    async def list_by_thread(*args: Any, **fields: Any) -> list[Any]:
        raise RuntimeError("away")

    store.list_by_thread = list_by_thread
    assert await plain.list_by_thread("t") == [record]


async def test_after_a_restart_the_store_has_the_history(recorded: RunManager) -> None:
    done = await running(recorded)
    await recorded.set_status(done.run_id, RunStatus.success)
    failed = await recorded.create("t")
    await recorded.set_status(failed.run_id, RunStatus.error, error="boom")
    records_of(recorded).clear()
    fresh = await recorded.create("t")
    listed = {record.run_id: record for record in await recorded.list_by_thread("t")}
    assert {run_id: record.status for run_id, record in listed.items()} == {
        done.run_id: RunStatus.success,
        failed.run_id: RunStatus.error,
        fresh.run_id: RunStatus.pending,
    }
    assert listed[fresh.run_id] is fresh
    assert listed[failed.run_id].error == "boom"


async def test_without_a_store_only_records_in_memory_are_listed() -> None:
    async with managing() as manager:
        record = await manager.create("t")
        records_of(manager).clear()
        assert await manager.list_by_thread("t") == []
        assert await manager.get(record.run_id) is None


# -- has_inflight


async def test_pending_and_running_runs_are_in_flight(manager: RunManager) -> None:
    assert not await manager.has_inflight("t")
    record = await manager.create_or_reject("t")
    assert await manager.has_inflight("t")
    await manager.set_status(record.run_id, RunStatus.running)
    assert await manager.has_inflight("t")
    assert not await manager.has_inflight("u")
    await manager.set_status(record.run_id, RunStatus.success)
    assert not await manager.has_inflight("t")
