"""RunRecord: what a caller knows of a run."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from coordinator import (
    DisconnectMode,
    MemoryRunStore,
    PersistenceRetryPolicy,
    RunManager,
    RunRecord,
    RunStatus,
    Settings,
)
from stores.memory import MemoryStore
from stores.rows import COUNTERS
from tests.support.runs import managing, row


def test_the_statuses_are_the_six_known_ones() -> None:
    assert {status.value for status in RunStatus} == {
        "pending",
        "running",
        "success",
        "error",
        "timeout",
        "interrupted",
    }
    assert DisconnectMode.cancel.value == "cancel"
    assert DisconnectMode.continue_.value == "continue"


def test_a_record_begins_with_the_documented_defaults() -> None:
    record = RunRecord("r", "t", None, RunStatus.pending, DisconnectMode.cancel)
    assert record.multitask_strategy == "reject"
    assert record.metadata == {}
    assert record.kwargs == {}
    assert record.task is None
    assert not record.abort_event.is_set()
    assert record.abort_action == "interrupt"
    assert (record.error, record.model_name) == (None, None)
    assert record.store_only is False
    assert [getattr(record, name) for name in COUNTERS] == [0] * len(COUNTERS)
    assert (record.last_ai_message, record.first_human_message) == (None, None)


def test_task_and_abort_event_stay_out_of_the_repr() -> None:
    text = repr(RunRecord("r", "t", None, RunStatus.pending, DisconnectMode.cancel))
    assert "run_id='r'" in text
    assert "task" not in text.replace("multitask", "")
    assert "abort_event" not in text


def test_a_record_is_mutable_and_a_policy_is_not() -> None:
    record = RunRecord("r", "t", None, RunStatus.pending, DisconnectMode.cancel)
    record.status = RunStatus.running
    assert record.status is RunStatus.running
    with pytest.raises(AttributeError):
        PersistenceRetryPolicy().max_attempts = 1  # type: ignore[misc]  # frozen, which is tested


def test_everything_is_built_without_a_running_event_loop() -> None:
    RunManager()
    RunManager(MemoryRunStore())
    RunManager(MemoryStore())
    RunManager(store=MemoryRunStore(), persistence_retry_policy=PersistenceRetryPolicy(max_attempts=2))


def test_manager_is_usable_in_a_second_event_loop() -> None:
    manager = RunManager()
    run_id = asyncio.run(manager.create("t")).run_id

    async def read() -> RunRecord | None:
        return await manager.get(run_id)

    record = asyncio.run(read())
    assert record is not None
    assert record.run_id == run_id


async def test_without_a_store_there_is_no_background_work() -> None:
    before = asyncio.all_tasks()
    manager = RunManager()
    record = await manager.create_or_reject("t")
    await manager.set_status(record.run_id, RunStatus.running)
    await manager.set_status(record.run_id, RunStatus.success)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_record_has_the_arguments_of_create(manager: RunManager) -> None:
    record = await manager.create(
        "t",
        "lead",
        on_disconnect=DisconnectMode.continue_,
        metadata={"k": "v"},
        kwargs={"input": {"q": 1}},
        multitask_strategy="interrupt",
        user_id="u",
    )
    assert (record.thread_id, record.assistant_id, record.user_id) == ("t", "lead", "u")
    assert record.on_disconnect is DisconnectMode.continue_
    assert record.metadata == {"k": "v"}
    assert record.kwargs == {"input": {"q": 1}}
    assert record.multitask_strategy == "interrupt"
    assert record.status is RunStatus.pending
    assert record.store_only is False


async def test_record_without_arguments_has_the_defaults(manager: RunManager) -> None:
    for record in (
        await manager.create("t", metadata=None, kwargs=None),
        await manager.create_or_reject("u", metadata=None, kwargs=None),
    ):
        assert record.metadata == {}
        assert record.kwargs == {}
        assert (record.assistant_id, record.model_name, record.user_id) == (None, None, None)
        assert record.multitask_strategy == "reject"
        assert record.on_disconnect is DisconnectMode.cancel


async def test_timestamps_are_iso_with_microseconds_and_an_offset(recorded: RunManager) -> None:
    record = await recorded.create("t")
    stored = await row(recorded, record.run_id)
    for stamp in (record.created_at, record.updated_at, stored["created_at"], stored["updated_at"]):
        assert "T" in stamp
        assert datetime.fromisoformat(stamp).utcoffset() == timedelta(0)
    assert "." in record.created_at


async def test_created_at_grows_strictly_within_a_process(manager: RunManager) -> None:
    stamps = [(await manager.create("t")).created_at for _ in range(50)]
    assert stamps == sorted(set(stamps))


async def test_updated_at_follows_each_change(manager: RunManager) -> None:
    record = await manager.create("t")
    seen = [record.updated_at]
    await manager.set_status(record.run_id, RunStatus.running)
    seen.append(record.updated_at)
    await manager.update_model_name(record.run_id, "m")
    seen.append(record.updated_at)
    await manager.update_run_progress(record.run_id, total_tokens=1)
    seen.append(record.updated_at)
    await manager.set_status(record.run_id, RunStatus.success)
    seen.append(record.updated_at)
    assert seen == sorted(set(seen))


async def test_two_managers_work_in_one_process() -> None:
    async with managing() as one, managing() as other:
        record = await one.create_or_reject("t")
        await other.create_or_reject("t")
        assert await other.get(record.run_id) is None


@pytest.mark.parametrize(
    ("store", "instead"),
    [
        ("sqlite:///runs.db", r"open_coordinator\('sqlite:///runs\.db'\)"),
        ("postgresql://u:secret@host/db", r"open_coordinator\('postgresql://\*+@host/db'\)"),
        (Path("runs.db"), r"open_coordinator\('sqlite:///runs\.db'\)"),
        (Settings(), "not a Settings; keyword arguments"),
        (MemoryStore, "not the class MemoryStore"),
    ],
    ids=["URL", "URL with a password", "path", "settings", "class"],
)
def test_what_is_no_store_is_refused_at_construction(store: Any, instead: str) -> None:
    with pytest.raises(TypeError, match=instead) as refused:
        RunManager(store)
    assert "secret" not in str(refused.value)
