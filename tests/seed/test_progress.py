"""update_run_progress: snapshots of counters while a run is running."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator import MemoryRunStore, RunManager, RunStatus, RunStore
from stores.rows import COUNTERS
from tests.support import agents
from tests.support.runs import row, running
from tests.support.waiting import wait_until


async def test_snapshot_is_stored_in_the_record_and_the_row(recorded: RunManager) -> None:
    record = await running(recorded)
    fields: dict[str, Any] = {name: number for number, name in enumerate(COUNTERS, start=1)}
    fields |= {"last_ai_message": "hm", "first_human_message": "hi"}
    await recorded.update_run_progress(record.run_id, **fields)
    stored = await row(recorded, record.run_id)
    assert {name: getattr(record, name) for name in fields} == fields
    assert {name: stored[name] for name in fields} == fields
    assert stored["status"] == "running"


async def test_every_snapshot_that_an_agent_reports_is_stored_in_the_row(recorded: RunManager) -> None:
    """Also a snapshot that follows one that was already written."""
    record, agent = await agents.running(recorded, "t")

    async def written(tokens: int) -> bool:
        return (await row(recorded, record.run_id)).get("total_tokens") == tokens

    for tokens in (3, 5):
        agent.ctx.progress(total_tokens=tokens)
        await wait_until(
            lambda tokens=tokens: written(tokens), description=f"{tokens} tokens are in the row", timeout=5
        )
    agent.may_end.set()
    await recorded.wait(record.run_id, timeout=10)


async def test_omitted_and_none_fields_are_kept_and_unknown_ones_ignored(recorded: RunManager) -> None:
    record = await running(recorded)
    await recorded.update_run_progress(record.run_id, total_tokens=3, last_ai_message="a")
    await recorded.update_run_progress(record.run_id, total_tokens=None, message_count=2, unknown="x")
    stored = await row(recorded, record.run_id)
    assert (record.total_tokens, record.message_count, record.last_ai_message) == (3, 2, "a")
    assert (stored["total_tokens"], stored["message_count"], stored["last_ai_message"]) == (3, 2, "a")
    assert not hasattr(record, "unknown")


@pytest.mark.parametrize("status", [None, "success", "interrupted"])
async def test_snapshot_of_a_run_that_is_not_running_is_ignored(
    plain: RunManager, store: MemoryRunStore, status: str | None
) -> None:
    record = await plain.create("t")
    if status is not None:
        await plain.set_status(record.run_id, status)
    calls: list[str] = []

    async def update_run_progress(run_id: str, **fields: Any) -> bool:
        calls.append(run_id)
        return True

    store.update_run_progress = update_run_progress
    await plain.update_run_progress(record.run_id, total_tokens=1)
    assert calls == []
    assert record.total_tokens == 0


async def test_snapshot_of_a_run_whose_status_the_caller_set_is_stored(manager: RunManager) -> None:
    record = await manager.create("t")
    record.status = RunStatus.running
    await manager.update_run_progress(record.run_id, total_tokens=4)
    assert record.total_tokens == 4


async def test_failed_write_of_a_snapshot_is_logged_only(plain: RunManager, store: MemoryRunStore) -> None:
    record = await running(plain)

    async def update_run_progress(run_id: str, **fields: Any) -> bool:
        raise RuntimeError("away")

    store.update_run_progress = update_run_progress
    await plain.update_run_progress(record.run_id, total_tokens=4)
    assert record.total_tokens == 4


async def test_snapshot_of_unknown_run_is_ignored(manager: RunManager) -> None:
    await manager.update_run_progress("unknown", total_tokens=1)


async def test_store_without_snapshots_ignores_them() -> None:
    assert await RunStore().update_run_progress("r", total_tokens=1) is None
