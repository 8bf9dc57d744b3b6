"""reconcile_orphaned_inflight_runs ends orphaned runs, and no others."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from coordinator import InvalidArgument, MemoryRunStore, PersistenceRetryPolicy, RunManager, RunStatus
from stores.base import Row
from stores.memory import MemoryStore
from stores.sqlite import SQLiteStore
from tests.support.held import hold_answers
from tests.support.inside_stores import rows_of
from tests.support.runs import managing, running

LOST = "The gateway was restarted"
STAMPS = [f"2026-01-01T00:00:0{second}+00:00" for second in range(4)]


async def _orphan(store: Any, run_id: str, status: str | None = "running", stamp: str = STAMPS[0]) -> None:
    await store.put(run_id, thread_id="t", status=status, created_at=stamp)


async def _statuses(store: Any) -> dict[str, Any]:
    return {row["run_id"]: row["status"] for row in await store.list_by_thread("t", limit=100)}


async def test_rows_in_flight_end_as_error_with_the_given_text(
    store: MemoryRunStore, plain: RunManager
) -> None:
    await _orphan(store, "pending", "pending")
    await _orphan(store, "running", stamp=STAMPS[1])
    await _orphan(store, "null", None, stamp=STAMPS[1])
    await _orphan(store, "done", "success")
    ended = await plain.reconcile_orphaned_inflight_runs(error=LOST)
    assert {record.run_id for record in ended} == {"pending", "running", "null"}
    assert all((record.status, record.error) == (RunStatus.error, LOST) for record in ended)
    assert all(record.store_only for record in ended)
    assert await _statuses(store) == {
        "pending": "error",
        "running": "error",
        "null": "error",
        "done": "success",
    }
    stored = await store.get("running")
    assert stored is not None
    assert stored["error"] == LOST
    assert await plain.reconcile_orphaned_inflight_runs(error=LOST) == []


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_rows_in_flight_of_a_coordination_store_end_as_error(kind: str, tmp_path: Path) -> None:
    store = MemoryStore() if kind == "memory" else SQLiteStore(tmp_path / "runs.db")
    await store.open()
    await _orphan(store, "pending", "pending")
    await _orphan(store, "running")
    await _orphan(store, "done", "success")
    async with managing(store) as manager:
        ended = await manager.reconcile_orphaned_inflight_runs(error=LOST)
        assert {record.run_id for record in ended} <= {"pending", "running"}
        assert await _statuses(store) == {"pending": "error", "running": "error", "done": "success"}
        assert await manager.reconcile_orphaned_inflight_runs(error=LOST) == []


@pytest.mark.parametrize(
    "before",
    [STAMPS[2], "2026-01-01T00:00:02", "2026-01-01T02:00:02+02:00", "2026-01-01 00:00:02Z"],
    ids=["aware", "naive means UTC", "another offset", "another form"],
)
async def test_before_compares_instants(plain: RunManager, store: MemoryRunStore, before: str) -> None:
    for number, stamp in enumerate(STAMPS):
        await _orphan(store, f"r{number}", stamp=stamp)
    ended = await plain.reconcile_orphaned_inflight_runs(error=LOST, before=before)
    assert [record.run_id for record in ended] == ["r0", "r1"]


async def test_row_without_readable_timestamp_is_skipped_if_before_is_given(
    plain: RunManager, store: MemoryRunStore
) -> None:
    await _orphan(store, "ageless", stamp="long ago")
    assert await plain.reconcile_orphaned_inflight_runs(error=LOST, before=STAMPS[3]) == []
    assert len(await plain.reconcile_orphaned_inflight_runs(error=LOST)) == 1


async def test_error_text_is_required(manager: RunManager) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await manager.reconcile_orphaned_inflight_runs(error=None)  # type: ignore[arg-type]  # refused, which is tested
    assert refused.value.argument == "error"


async def test_runs_of_live_workers_are_not_ended(manager: RunManager) -> None:
    created, admitted = await manager.create("t"), await running(manager, "u")
    waiting = await manager.create_or_reject("u", multitask_strategy="enqueue")
    assert await manager.reconcile_orphaned_inflight_runs(error=LOST) == []
    assert (created.status, admitted.status, waiting.status) == (
        RunStatus.pending,
        RunStatus.running,
        RunStatus.pending,
    )


async def test_runs_of_a_peer_on_the_same_store_are_not_ended(store: MemoryRunStore) -> None:
    async with managing(store) as owner, managing(store) as other:
        record = await running(owner)
        assert await other.reconcile_orphaned_inflight_runs(error=LOST) == []
        assert record.status is RunStatus.running
        assert await _statuses(store) == {record.run_id: "running"}


async def test_run_whose_row_is_being_written_is_not_ended(plain: RunManager, store: MemoryRunStore) -> None:
    held = hold_answers(store, "put")
    admitting = asyncio.create_task(plain.create_or_reject("t"))
    await held.reached.wait()
    assert await plain.reconcile_orphaned_inflight_runs(error=LOST) == []
    held.go_on.set()
    record = await admitting
    assert await _statuses(store) == {record.run_id: "pending"}


async def test_run_that_ended_in_this_process_is_not_ended_as_error(
    plain: RunManager, store: MemoryRunStore
) -> None:
    record = await running(plain)
    await plain.set_status(record.run_id, RunStatus.success)
    rows_of(store)[record.run_id]["status"] = "running"  # the last write was lost
    assert await plain.reconcile_orphaned_inflight_runs(error=LOST) == []
    assert await _statuses(store) == {record.run_id: "success"}


async def test_unreadable_rows_are_skipped(plain: RunManager, store: MemoryRunStore) -> None:
    await _orphan(store, "bad")
    rows_of(store)["bad"]["on_disconnect"] = "explode"
    await _orphan(store, "good")
    ended = await plain.reconcile_orphaned_inflight_runs(error=LOST)
    assert [record.run_id for record in ended] == ["good"]
    assert await _statuses(store) == {"bad": "running", "good": "error"}


@pytest.mark.parametrize(
    ("failure", "calls"),
    [(sqlite3.OperationalError("database is locked"), 2), (ValueError("no"), 1)],
    ids=["transient", "not transient"],
)
async def test_row_whose_write_fails_is_skipped_after_the_last_attempt(
    store: MemoryRunStore, failure: Exception, calls: int
) -> None:
    await _orphan(store, "r")
    attempts = 0

    async def update_status(run_id: str, status: str, *, error: str | None = None) -> bool:
        nonlocal attempts
        attempts += 1
        raise failure

    store.update_status = update_status
    policy = PersistenceRetryPolicy(max_attempts=2, initial_delay=0)
    async with managing(store, persistence_retry_policy=policy) as manager:
        assert await manager.reconcile_orphaned_inflight_runs(error=LOST) == []
        assert attempts == calls
        assert await _statuses(store) == {"r": "running"}


async def test_row_whose_update_returns_false_is_not_reported(
    plain: RunManager, store: MemoryRunStore
) -> None:
    await _orphan(store, "r")

    async def update_status(run_id: str, status: str, *, error: str | None = None) -> bool:
        return False

    store.update_status = update_status
    assert await plain.reconcile_orphaned_inflight_runs(error=LOST) == []


async def test_reconcile_ends_no_run_if_the_store_cannot_list(
    plain: RunManager, store: MemoryRunStore
) -> None:
    async def list_inflight(*, before: str | None = None) -> list[Row]:
        raise RuntimeError("away")

    store.list_inflight = list_inflight
    assert await plain.reconcile_orphaned_inflight_runs(error=LOST) == []


async def test_reconcile_without_runs_in_flight_returns_no_run(manager: RunManager) -> None:
    assert await manager.reconcile_orphaned_inflight_runs(error=LOST) == []
