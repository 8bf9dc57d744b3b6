"""update_run_completion and update_model_name: a failed write is not raised but retried."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from coordinator import MemoryRunStore, RunManager, RunStatus
from stores.rows import COUNTERS
from tests.support.runs import managing, row, running
from tests.support.waiting import wait_until

FIELDS: dict[str, Any] = {
    **{name: number for number, name in enumerate(COUNTERS, start=1)},
    "last_ai_message": "done",
    "first_human_message": "hello",
}


class Counting(MemoryRunStore):
    """Returns False for the first `missing` completions."""

    def __init__(self, missing: int) -> None:
        super().__init__()
        self.missing, self.calls = missing, 0

    async def update_run_completion(self, run_id: str, *, status: str | None = None, **fields: Any) -> bool:
        self.calls += 1
        if self.calls <= self.missing:
            return False
        return await super().update_run_completion(run_id, status=status, **fields)


async def test_known_fields_reach_the_record_and_the_row(recorded: RunManager) -> None:
    record = await running(recorded)
    await recorded.set_status(record.run_id, RunStatus.success)
    await recorded.update_run_completion(record.run_id, status="success", **FIELDS, unknown="x")
    stored = await row(recorded, record.run_id)
    for name, value in FIELDS.items():
        assert getattr(record, name) == value
        assert stored[name] == value
    assert stored["status"] == "success"
    assert not hasattr(record, "unknown")


async def test_fields_that_are_none_are_not_changed(manager: RunManager) -> None:
    record = await manager.create("t")
    await manager.update_run_completion(record.run_id, status="success", total_tokens=3, last_ai_message="a")
    await manager.update_run_completion(record.run_id, status="success", total_tokens=None, message_count=2)
    assert (record.total_tokens, record.message_count, record.last_ai_message) == (3, 2, "a")


async def test_completion_does_not_change_the_status_of_the_record(manager: RunManager) -> None:
    record = await manager.create("t")
    await manager.update_run_completion(record.run_id, status="success", total_tokens=1)
    assert record.status is RunStatus.pending


async def test_counters_without_a_status_are_written(recorded: RunManager) -> None:
    record = await running(recorded)
    await recorded.update_run_completion(record.run_id, total_tokens=5)
    stored = await row(recorded, record.run_id)
    assert (stored["total_tokens"], stored["status"]) == (5, "running")


async def test_counters_of_a_running_run_are_accepted(recorded: RunManager) -> None:
    record = await running(recorded)
    await recorded.update_run_completion(record.run_id, status="running", total_tokens=5)
    stored = await row(recorded, record.run_id)
    assert (stored["total_tokens"], stored["status"]) == (5, "running")


async def test_terminal_status_is_not_replaced_by_another(recorded: RunManager) -> None:
    record = await running(recorded)
    await recorded.set_status(record.run_id, RunStatus.error, error="boom")
    await recorded.update_run_completion(record.run_id, status="success", error="other", total_tokens=5)
    stored = await row(recorded, record.run_id)
    assert (stored["status"], stored["error"]) == ("error", "boom")


async def test_missing_row_is_recreated_and_the_update_retried(recorded: RunManager) -> None:
    record = await running(recorded, metadata={"k": "v"}, kwargs={"q": 1}, user_id="ann")
    await recorded.set_status(record.run_id, RunStatus.success)
    await recorded.store.delete(record.run_id)
    await recorded.update_run_completion(record.run_id, status="success", **FIELDS)
    stored = await row(recorded, record.run_id)
    assert (stored["status"], stored["user_id"]) == ("success", "ann")
    assert (stored["metadata"], stored["kwargs"]) == ({"k": "v"}, {"q": 1})
    assert {name: stored[name] for name in FIELDS} == FIELDS
    assert stored["created_at"] == record.created_at


async def test_missing_row_is_recreated_with_the_status_and_error_of_the_call(
    plain: RunManager, store: MemoryRunStore
) -> None:
    record = await plain.create("t")
    await store.delete(record.run_id)
    await plain.update_run_completion(record.run_id, status="error", error="boom", total_tokens=2)
    stored = await row(plain, record.run_id)
    assert (stored["status"], stored["error"], stored["total_tokens"]) == ("error", "boom", 2)


@pytest.fixture
async def counting() -> AsyncGenerator[tuple[RunManager, Counting]]:
    store = Counting(0)
    async with managing(store) as manager:
        yield manager, store


async def test_plain_store_receives_two_calls_if_the_row_is_missing(
    counting: tuple[RunManager, Counting],
) -> None:
    manager, store = counting
    store.missing = 1
    record = await running(manager)
    await manager.set_status(record.run_id, RunStatus.success)
    await store.delete(record.run_id)
    await manager.update_run_completion(record.run_id, status="success", total_tokens=42)
    stored = await row(manager, record.run_id)
    assert (stored["status"], stored["total_tokens"], store.calls) == ("success", 42, 2)


async def test_plain_store_receives_no_third_call(
    counting: tuple[RunManager, Counting], caplog: pytest.LogCaptureFixture
) -> None:
    manager, store = counting
    store.missing = 9
    record = await manager.create("t")
    await manager.set_status(record.run_id, RunStatus.success)
    with caplog.at_level(logging.WARNING):
        await manager.update_run_completion(record.run_id, status="success", total_tokens=42)
    assert store.calls == 2
    assert "affected no rows after row recreation" in caplog.text


async def test_completion_of_unknown_run_is_ignored(manager: RunManager) -> None:
    await manager.update_run_completion("unknown", status="success", total_tokens=1)
    assert await manager.get("unknown") is None


async def test_failed_completion_is_not_raised_and_is_retried(
    plain: RunManager, store: MemoryRunStore
) -> None:
    record = await running(plain)
    original, failures = store.update_run_completion, [1, 2]

    async def update_run_completion(run_id: str, **fields: Any) -> bool:
        if failures:
            failures.pop()
            raise RuntimeError("away")
        return await original(run_id, **fields)

    store.update_run_completion = update_run_completion
    await plain.update_run_completion(record.run_id, status="success", total_tokens=7)
    assert record.total_tokens == 7

    async def written() -> bool:
        return (await row(plain, record.run_id)).get("total_tokens") == 7

    await wait_until(written, description="the completion is written")


async def test_failed_recreation_is_not_raised(plain: RunManager, store: MemoryRunStore) -> None:
    record = await plain.create("t")

    async def put(run_id: str, **fields: Any) -> None:
        raise ValueError("no")

    store.put = put
    await store.delete(record.run_id)
    await plain.update_run_completion(record.run_id, status="success", total_tokens=1)
    assert await store.get(record.run_id) is None


# -- model name


async def test_model_name_is_stored_stripped_and_bounded(recorded: RunManager) -> None:
    record = await recorded.create("t")
    await recorded.update_model_name(record.run_id, "  gpt  ")
    assert record.model_name == "gpt"
    assert (await row(recorded, record.run_id))["model_name"] == "gpt"
    await recorded.update_model_name(record.run_id, "x" * 500)
    assert record.model_name == "x" * 128
    assert (await row(recorded, record.run_id))["model_name"] == "x" * 128
    await recorded.update_model_name(record.run_id, None)
    assert (await row(recorded, record.run_id))["model_name"] is None


async def test_failed_write_of_the_model_name_is_not_raised_and_is_retried(
    plain: RunManager, store: MemoryRunStore
) -> None:
    record = await plain.create("t")
    original, failures = store.update_model_name, [1]

    async def update_model_name(run_id: str, model_name: str | None) -> bool:
        if failures:
            failures.pop()
            raise RuntimeError("away")
        return await original(run_id, model_name)

    store.update_model_name = update_model_name
    await plain.update_model_name(record.run_id, "m")

    async def written() -> bool:
        return (await row(plain, record.run_id))["model_name"] == "m"

    await wait_until(written, description="the model name is written")


async def test_model_name_of_unknown_run_is_ignored(manager: RunManager) -> None:
    await manager.update_model_name("unknown", "m")
