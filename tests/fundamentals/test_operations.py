"""Updating, copying and deleting a thread are short holders: they exclude runs, and are no runs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from coordinator import (
    ConflictError,
    MemoryRunStore,
    RunManager,
    RunNotFound,
    RunStatus,
    StaleFence,
    ThreadNotFound,
    open_coordinator,
)
from coordinator.errors import LeaseLost
from coordinator.telemetry.events import Event, RunAdmitted, RunSettled, RunStarted
from stores.memory import MemoryStore
from tests.support.agents import launched, quick, running
from tests.support.held import hold_calls
from tests.support.inside import assembly_of
from tests.support.runs import managing
from tests.support.teams import QUICK, team_of


@pytest.mark.parametrize("operator", [0, 1], ids=["same worker", "other worker"])
async def test_busy_thread_refuses_operations(team: list[RunManager], operator: int) -> None:
    run, _ = await running(team[0], "t")
    await team[operator].threads.replace_values("source", {"n": 1})
    for refused in (
        team[operator].threads.replace_values("t", {"n": 2}),
        team[operator].threads.copy("source", "t"),
        team[operator].threads.delete("t"),
    ):
        with pytest.raises(ConflictError) as conflict:
            await refused
        assert conflict.value.active_run_id == run.run_id


async def test_idle_thread_can_be_updated_copied_and_deleted(team: list[RunManager]) -> None:
    a, b = team
    await a.threads.replace_values("t", {"n": 1})
    await b.threads.copy("t", "copy")
    copy = await a.threads.get("copy")
    assert copy.values == {"n": 1}
    await b.threads.delete("t")
    assert await a.store.thread("t") is None
    assert await a.list_by_thread("t") == []


async def test_unknown_thread_cannot_be_copied_or_deleted(team: list[RunManager]) -> None:
    with pytest.raises(ThreadNotFound):
        await team[0].threads.copy("nowhere", "t")
    with pytest.raises(ThreadNotFound):
        await team[0].threads.delete("nowhere")


async def test_operations_are_in_the_audit_but_in_no_list_of_runs(team: list[RunManager]) -> None:
    a, b = team
    async with b.threads.hold("t", "rename") as own:
        assert own.fence > 0
    assert await a.list_by_thread("t") == []
    assert await a.runs.recent(thread_id="t") == []
    steps = [step.what for step in (await a.runs.explain(own.run_id)).transitions]
    assert steps == ["admitted", "started", "finished"]


async def ids_in_lists(manager: RunManager, thread_id: str) -> set[str]:
    """Returns the ids of a thread's runs that any list of the manager or its store contains."""
    store: Any = manager.store
    listed: list[Any] = [
        *await manager.list_by_thread(thread_id),
        *await manager.runs.recent(thread_id=thread_id),
        *await manager.runs.recent(in_flight=True),
        *await manager.runs.recent(statuses=[status.value for status in RunStatus]),
    ]
    if await manager.store.thread(thread_id) is not None:
        listed += await manager.runs.of_thread(thread_id)
        listed += await manager.runs.in_flight()
    rows = [
        *await store.list_by_thread(thread_id),
        *await store.list_inflight(),
        *await store.list_pending(),
    ]
    return {each.run_id for each in listed} | {row["run_id"] for row in rows}


async def listed_nowhere(manager: RunManager, other: RunManager) -> None:
    async with manager.threads.hold("t", "import"):
        assert await ids_in_lists(manager, "t") == await ids_in_lists(other, "t") == set()
        store: Any = manager.store
        tokens = await store.aggregate_tokens_by_thread("t", include_active=True)
        assert tokens["total_runs"] == 0
    with pytest.raises(RuntimeError):
        async with manager.threads.hold("t", "import"):
            raise RuntimeError("it fails")
    assert await ids_in_lists(manager, "t") == await ids_in_lists(other, "t") == set()
    run = await manager.create_or_reject("t")
    assert await ids_in_lists(manager, "t") == {run.run_id}


async def test_operation_is_in_no_list_of_runs(team: list[RunManager]) -> None:
    await listed_nowhere(*team)


@pytest.mark.parametrize("store", ["memory", "record store"])
async def test_operation_is_in_no_list_of_runs_in_memory(store: str) -> None:
    async with managing(MemoryStore() if store == "memory" else MemoryRunStore()) as manager:
        await listed_nowhere(manager, manager)


async def test_hooks_receive_events_of_runs_but_not_of_operations(team: list[RunManager]) -> None:
    manager, events = team[0], list[Event]()
    manager.worker.observe(events.append)
    async with manager.threads.hold("t", "import"):
        """It holds the thread."""
    assert events == []
    run = await manager.create_or_reject("t")
    manager.launch(run, quick)
    await manager.wait(run.run_id)
    assert [type(event) for event in events] == [RunAdmitted, RunStarted, RunSettled]


async def test_reconcile_reports_no_operation(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    async with team_of(1, tmp_path) as (peer,), open_coordinator(url, **QUICK) as dying:
        holding = dying.threads.hold("t", "import")
        await holding.__aenter__()
        await peer.create_or_reject("u")
        row = next(row for row in await peer.worker.fleet() if row.epoch == dying.worker.epoch)
        assert await peer.store.fence_worker(row, by=peer.worker.epoch, proven=True)
        assert await peer.reconcile_orphaned_inflight_runs(error="gone") == []
        assert not await peer.has_inflight("t")
        with pytest.raises(LeaseLost):
            await holding.__aexit__(None, None, None)


async def test_queued_run_waits_for_an_operation(team: list[RunManager]) -> None:
    """An operation is not interrupted: it is short, and its caller waits for it."""
    a, b = team
    async with a.threads.hold("t", "rename"):
        with pytest.raises(ConflictError):
            await b.create_or_reject("t")
        _, agent = await launched(b, "t", multitask_strategy="interrupt")
        await asyncio.sleep(0)
        assert not agent.started.is_set()
    async with asyncio.timeout(20):
        await agent.started.wait()


async def test_cancelled_operation_holds_the_thread_until_its_block_has_ended(
    team: list[RunManager],
) -> None:
    a, b = team
    async with a.threads.hold("t", "rename") as own:
        assert await b.cancel(own.run_id)
        with pytest.raises(ConflictError):
            await b.create_or_reject("t")
        with pytest.raises(StaleFence):
            await a.store.save(own, {"n": 1})
    run = await b.create_or_reject("t")
    assert run.status == "pending"


async def test_failed_or_cancelled_operation_frees_the_thread(team: list[RunManager]) -> None:
    a, b = team
    with pytest.raises(RuntimeError):
        async with a.threads.hold("t", "rename"):
            raise RuntimeError("no")
    holding = asyncio.Event()

    async def hold() -> None:
        async with a.threads.hold("t", "rename"):
            holding.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(hold())
    await holding.wait()
    task.cancel()
    await asyncio.wait([task])
    await b.create_or_reject("t")


async def test_operation_cancelled_before_its_block_begins_frees_the_thread(
    team: list[RunManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = team
    start, committed = a.store.start, asyncio.Event()

    async def slow_answer(*args: object) -> object:
        started = await start(*args)  # type: ignore[arg-type]  # passed through
        committed.set()
        await asyncio.Event().wait()
        return started

    monkeypatch.setattr(a.store, "start", slow_answer)
    task = asyncio.create_task(a.threads.replace_values("t", {"n": 1}))
    await committed.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    await b.create_or_reject("t")


async def test_run_queued_behind_a_deletion_starts(team: list[RunManager]) -> None:
    """It was admitted after the operation, so it finds an empty thread; it is not deleted with the others."""
    a, b = team
    await a.threads.replace_values("t", {"n": 1})
    held = hold_calls(a.store, "delete_thread")
    deleting = asyncio.create_task(a.threads.delete("t"))
    await held.reached.wait()
    run, agent = await launched(b, "t", multitask_strategy="enqueue")
    held.go_on.set()
    await deleting
    async with asyncio.timeout(20):
        await agent.started.wait()
    assert agent.ctx.values is None
    agent.may_end.set()
    assert await a.wait(run.run_id, timeout=20) is None


async def test_queued_run_whose_row_was_removed_ends(team: list[RunManager]) -> None:
    a, b = team
    await running(a, "t")
    run, agent = await launched(b, "t", multitask_strategy="enqueue")
    await a.store.delete(run.run_id)
    assert run.task is not None
    async with asyncio.timeout(20):
        await asyncio.wait((run.task,))
    assert not agent.started.is_set()


async def test_wait_for_a_deleted_run_raises_run_not_found(
    team: list[RunManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = team
    run, _ = await running(a, "t")
    watching = asyncio.Event()
    watch = assembly_of(b).shared.notifier.watch

    def watched(thread_id: str) -> Any:
        watching.set()
        return watch(thread_id)

    monkeypatch.setattr(assembly_of(b).shared.notifier, "watch", watched)
    waiting = asyncio.create_task(b.wait(run.run_id, timeout=30))
    await watching.wait()
    await a.store.delete(run.run_id)
    with pytest.raises(RunNotFound):
        await waiting
