"""The record operations that gateways call, and threads that are kept for a while only."""

from __future__ import annotations

from coordinator.testing.conformance.stores.builders import (
    SUCCESS,
    Field,
    StoreCase,
    row_of,
    running,
    waiting,
)
from coordinator.testing.conformance.suite import Check, checks_of, refused
from stores.base import CoordinationStore
from stores.catalogue import NewThread, RemovedThread


async def record_of(store: CoordinationStore, run_id: str = "r") -> Field:
    record = await store.get(run_id)
    assert record is not None
    return record


async def status_of_a_record_is_updated_until_it_is_terminal(case: StoreCase) -> None:
    store = case.store
    await store.put("r", thread_id="t")
    assert await store.update_status("unknown", "running") is False
    assert await store.update_status("r", "running") is True
    assert await store.update_status("r", "pending") is False
    assert await store.update_status("r", "error", error="why") is True
    before = await record_of(store)
    case.clock.advance(1)
    assert await store.update_status("r", "error", error="other") is True, "repeated"
    for status in ("pending", "running", "success", "interrupted"):
        assert await store.update_status("r", status, error="later") is False
    after = await record_of(store)
    assert (after["status"], after["error"], after["ended_at"]) == ("error", "why", before["ended_at"])
    with refused(ValueError):
        await store.update_status("r", "unheard")


async def model_of_a_record_is_updated(case: StoreCase) -> None:
    store = case.store
    await store.put("r", thread_id="t")
    assert await store.update_model_name("r", "m") is True
    assert await store.update_model_name("unknown", "m") is False
    assert (await record_of(store))["model_name"] == "m"


async def completion_of_a_record_is_kept(case: StoreCase) -> None:
    store = case.store
    await store.put("r", thread_id="t", status="running")
    done: dict[str, Field] = {
        "total_tokens": 7,
        "last_ai_message": "bye \ud800",
        "first_human_message": None,
    }
    assert await store.update_run_completion("r", status="running", llm_call_count=2) is True
    assert await store.update_run_completion("r", status="success", **done) is True
    assert await store.update_run_completion("r", status="success", total_tokens=8) is True, "repeated"
    assert await store.update_run_completion("unknown", status="success") is False
    for status in ("error", "running", "interrupted"):
        assert await store.update_run_completion("r", status=status, error="x", total_tokens=9) is False
    record = await record_of(store)
    kept = [record[name] for name in ("status", "error", "total_tokens", "llm_call_count")]
    assert kept == ["success", None, 8, 2]
    assert record["last_ai_message"] == "bye \\ud800"


async def progress_is_written_only_while_running(case: StoreCase) -> None:
    """Fields that are left out stay."""
    store = case.store
    await store.put("r", thread_id="t")
    assert await store.update_run_progress("r", total_tokens=1) is False
    await store.update_status("r", "running")
    assert await store.update_run_progress("r", total_tokens=5, message_count=2) is True
    assert await store.update_run_progress("r", total_tokens=6, message_count=None) is True
    await store.update_status("r", "success")
    assert await store.update_run_progress("r", total_tokens=9) is False
    record = await record_of(store)
    assert (record["total_tokens"], record["message_count"]) == (6, 2)


async def record_is_deleted_with_its_audit(case: StoreCase) -> None:
    store = case.store
    await store.put("r", thread_id="t")
    for _ in range(2):
        await store.delete("r")
    assert await store.get("r") is None
    assert await store.transitions("r") == []


async def expired(store: CoordinationStore) -> list[RemovedThread]:
    """What one sweep removes."""
    expected = await store.has_expired_threads()
    removed = await store.expire_threads(limit=10)
    assert expected == bool(removed), "has_expired_threads"
    return removed


async def temporary_thread_is_removed_a_while_after_its_run(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    own = await running(store, me, temporary_ms=5_000)
    queued = await waiting(store, me)
    await running(store, me, "permanent")
    case.clock.advance(3600)
    assert await expired(store) == [], "its run is in flight"
    await store.finish(own, SUCCESS)
    await store.withdraw(queued, epoch=me)
    case.clock.advance(4)
    assert await expired(store) == [], "it was used 4 s ago"
    case.clock.advance(1)
    [removed] = await expired(store)
    assert (removed.thread_id, set(removed.run_ids)) == ("t", {own.run_id, queued})
    assert (await store.thread("t"), await store.row(own.run_id)) == (None, None)
    assert await store.transitions(own.run_id) == []
    assert await expired(store) == []
    assert await store.thread("permanent")


async def thread_with_a_time_to_live_is_removed_after_it(case: StoreCase) -> None:
    store = case.store
    await store.create_thread(NewThread("t", ttl_ms=60_000))
    await store.create_thread(NewThread("kept"))
    case.clock.advance(59)
    assert await expired(store) == []
    case.clock.advance(1)
    assert await expired(store) == [RemovedThread("t", ())]
    assert await store.thread("kept")


async def row_is_settled_where_a_record_ends(case: StoreCase) -> None:
    store = case.store
    await store.put("r", thread_id="t", status="running")
    await store.put("r", thread_id="t", status="success")
    row = await row_of(store, "r")
    assert (row.settled, row.ended_at is not None) == (True, True)


RECORDS: tuple[Check[StoreCase], ...] = (
    *checks_of(
        status_of_a_record_is_updated_until_it_is_terminal,
        model_of_a_record_is_updated,
        completion_of_a_record_is_kept,
        progress_is_written_only_while_running,
        record_is_deleted_with_its_audit,
        row_is_settled_where_a_record_ends,
        promise="an update of a record is kept, unless its run has ended otherwise",
    ),
    *checks_of(
        temporary_thread_is_removed_a_while_after_its_run,
        thread_with_a_time_to_live_is_removed_after_it,
        promise="a thread is removed when its time has passed, and not before",
    ),
)
