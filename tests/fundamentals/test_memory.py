"""A process keeps its own runs in memory while they are in flight, and for some time after. It never keeps
those of other workers."""

from __future__ import annotations

import asyncio
import gc
import weakref
from pathlib import Path
from types import FunctionType, MethodType, ModuleType
from typing import Any

import pytest

from coordinator import Outcome, RunContext, RunManager, RunRecord, RunStatus, Settings
from coordinator.event_logs.store import StoreEventLog
from coordinator.runs.entry import Entry
from coordinator.runs.kept import Result
from coordinator.runs.latch import Latch
from coordinator.runs.states import TRANSITIONS, End, Hold
from coordinator.runs.work import Work
from stores.rows import Outcome as StoredOutcome
from tests.support.agents import Agent, launched, quick, running
from tests.support.held import hold_answers
from tests.support.inside import (
    assembly_of,
    emitting_runs_of,
    finished_in,
    jobs_of,
    local_log_of,
    records_of,
    runs_in_backlog_of,
    runs_with_events_in,
)
from tests.support.teams import team_of
from tests.support.waiting import wait_until


async def finished(manager: RunManager, thread_id: str) -> str:
    run = await manager.create_or_reject(thread_id)
    manager.launch(run, quick)
    await manager.wait(run.run_id, timeout=20)
    return run.run_id


async def test_finished_runs_are_evicted_from_memory(tmp_path: Path) -> None:
    """Reported failure 30."""
    async with team_of(1, tmp_path, keep_finished_max=5) as (manager,):
        runs = [await finished(manager, f"t{at}") for at in range(12)]
        _, agent = await running(manager, "another")
        assert len(records_of(manager)) <= 6
        assert agent.running
        for run_id in runs:  # they are in the store
            record = await manager.get(run_id)
            assert record is not None
            assert record.status is RunStatus.success


async def test_run_dropped_before_it_settled_is_evicted_from_memory(tmp_path: Path) -> None:
    async with team_of(1, tmp_path, keep_finished=0.05) as (manager,):
        run, agent = await running(manager, "t")
        await agent.ctx.emit("custom", "something")
        await manager.cleanup(run.run_id, delay=0)
        log = assembly_of(manager).shared.event_log
        assert isinstance(log, StoreEventLog)
        local = local_log_of(log)
        assert list(emitting_runs_of(manager)) == runs_with_events_in(local) == [run.run_id], (
            "it may still emit"
        )
        agent.may_end.set()
        await wait_until(
            lambda: not emitting_runs_of(manager), description="what its watchers needed is gone"
        )
        assert not runs_with_events_in(local)
        await wait_until(lambda: not runs_in_backlog_of(log), description="its events are in the store")
        assert finished_in(manager) == 0


async def test_run_cancelled_in_the_queue_is_no_longer_waiting(tmp_path: Path) -> None:
    async with team_of(1, tmp_path) as (manager,):
        await running(manager, "t")
        run, _ = await launched(manager, "t", multitask_strategy="enqueue")
        registry = assembly_of(manager).shared.registry
        assert [entry.record for entry in registry.waiting()] == [run]
        assert await manager.cancel(run.run_id, wait=20)
        assert registry.waiting() == []


async def test_late_claim_of_a_dropped_run_does_not_stop_it(tmp_path: Path) -> None:
    """The answer of the claim arrives after a tick has already started the run: to end the run as a foreign
    one would free the thread under its task."""
    async with team_of(1, tmp_path) as (home,):
        first, holder = await running(home, "t")
        run = await home.create_or_reject("t", multitask_strategy="enqueue")
        held = hold_answers(home.store, "claim", lambda claimed: claimed is not None)
        holder.may_end.set()
        async with asyncio.timeout(20):
            await held.reached.wait()
            home.launch(run, agent := Agent())
            await agent.started.wait()
        await home.cleanup(run.run_id, delay=0)
        held.go_on.set()
        assert first.task is not None
        await asyncio.wait([first.task])
        await wait_until(lambda: not jobs_of(home), description="all claims are answered")
        row = await home.store.row(run.run_id)
        assert row is not None
        assert (row.status, row.holds_thread, agent.running) == (RunStatus.running, True, True)
        agent.may_end.set()
        await wait_until(lambda: not assembly_of(home).shared.registry.unsettled(), description="it is over")
        assert (await home.runs.explain(run.run_id)).run.status is RunStatus.success


async def test_dropped_run_is_stopped_by_its_cancel(team: list[RunManager]) -> None:
    """Its caller has dropped the record. The run continues."""
    a, b = team
    run, agent = await running(a, "t")
    await a.cleanup(run.run_id, delay=0)
    assert await b.cancel(run.run_id, wait=20)
    assert agent.cancels == 1


async def test_dropped_run_is_stopped_by_the_shutdown_of_its_worker(team: list[RunManager]) -> None:
    a, b = team
    run, agent = await running(a, "t")
    await a.cleanup(run.run_id, delay=0)
    await a.worker.drain(grace=0)
    assert (agent.cancels, agent.running) == (1, False)
    receipt = await b.runs.receipt(run.run_id)
    assert (receipt.status, receipt.cause) == ("interrupted", "shutdown")


async def test_search_for_unsettled_runs_skips_finished_ones(tmp_path: Path) -> None:
    """The tick searches, and there may be ten thousand finished ones."""
    async with team_of(1, tmp_path, tick=0.02, short_tick=0.02) as (manager,):
        registry, checks = assembly_of(manager).shared.registry, list[str]()

        class Watched(Latch):
            def is_set(self) -> bool:
                checks.append("a finished one")
                return super().is_set()

        for at in range(20):
            entry = registry.entry(await finished(manager, f"t{at}"))
            assert entry is not None
            entry.settled = Watched()
            entry.settled.set()
        run, agent = await running(manager, "another")
        ticked = assembly_of(manager).watch.ticked_at or 0.0
        await wait_until(lambda: (assembly_of(manager).watch.ticked_at or 0.0) > ticked, description="a tick")
        assert [entry.record for entry in registry.unsettled()] == [run]
        assert checks == []
        agent.may_end.set()
        await manager.wait(run.run_id, timeout=20)
        assert registry.unsettled() == []


async def test_run_of_another_worker_is_read_and_not_kept(team: list[RunManager]) -> None:
    """A shadow copy would block the thread long after the run is over."""
    a, b = team
    run, agent = await running(a, "t")
    record = await b.get(run.run_id)
    assert record is not None
    assert record.store_only
    assert await b.list_by_thread("t") != []
    assert records_of(b) == {}
    agent.may_end.set()
    await b.wait(run.run_id, timeout=20)
    await b.create_or_reject("t")


async def test_vanished_row_is_recreated_once(alone: RunManager) -> None:
    """Reported failure 27."""
    run, agent = await running(alone, "t")
    await alone.store.delete(run.run_id)
    agent.may_end.set()
    await alone.wait(run.run_id, timeout=20)
    row = await alone.store.get(run.run_id)
    assert row is not None
    assert row["status"] == "success"


async def test_recreated_row_keeps_the_acknowledged_cancel(alone: RunManager) -> None:
    run, begun, may_end = await alone.create_or_reject("t"), asyncio.Event(), asyncio.Event()

    async def succeeds_all_the_same(ctx: RunContext) -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await may_end.wait()
        return "done"

    alone.launch(run, succeeds_all_the_same)
    await begun.wait()
    assert await alone.cancel(run.run_id)
    await alone.store.delete(run.run_id)
    may_end.set()
    assert await alone.wait(run.run_id, timeout=20) is None
    row = await alone.store.row(run.run_id)
    assert row is not None
    assert row.status is RunStatus.interrupted


async def test_vanished_row_of_a_lost_run_is_not_recreated(
    team: list[RunManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reported failure 27."""
    a, b = team
    run, agent = await running(a, "t")
    puts: list[Any] = []

    async def put(*args: Any, **_: Any) -> None:
        puts.append(args)

    monkeypatch.setattr(a.store, "put", put)
    entry = assembly_of(a).shared.registry.entry(run.run_id)
    assert entry is not None
    assembly_of(a).runs.settlement.lose(entry, "taken over")
    await b.store.delete(run.run_id)
    async with asyncio.timeout(20):
        await agent.stopped.wait()
    await a.set_status(run.run_id, RunStatus.success)
    assert puts == []
    assert run.status is RunStatus.error


async def test_managers_in_one_process_share_nothing(tmp_path: Path) -> None:
    one, other = RunManager(settings=Settings(grace=0)), RunManager(settings=Settings(grace=0))
    async with one, other:
        await running(one, "t")
        await running(other, "t")
        assert len(await one.list_by_thread("t")) == 1


@pytest.mark.parametrize("stamp", ["2026-01-01T00:00:00", "2026-01-01T00:00:00+00:00", "nonsense", None])
async def test_every_time_format_is_listed_and_reconciled(alone: RunManager, stamp: str | None) -> None:
    """Reported failure 29: naive, aware, malformed and missing."""
    await alone.store.put("imported", thread_id="t", status="success", created_at=stamp)
    run_id = await finished(alone, "t")
    listed = [record.run_id for record in await alone.list_by_thread("t")]
    assert sorted(listed) == sorted(["imported", run_id])
    assert await alone.reconcile_orphaned_inflight_runs(error="gone", before="2026-06-01T00:00:00") == []


_KEEPERS = (
    *(Entry, Work, Hold, End, *TRANSITIONS),
    *(RunRecord, Outcome, StoredOutcome, RunContext, Result, dict, list, tuple),
)


def kept_by(manager: RunManager) -> int:
    """Bytes of text that the manager's finished runs can still reach."""
    seen, todo, size = set[int](), list[Any](assembly_of(manager).shared.registry.entries()), 0
    while todo:
        value: Any = todo.pop()
        if id(value) in seen or isinstance(value, (type, ModuleType, FunctionType, MethodType)):
            continue
        seen.add(id(value))
        if isinstance(value, str):
            size += len(value)
        elif isinstance(value, asyncio.Task):
            todo += [value.result()] if value.done() and not value.cancelled() else []
        elif isinstance(value, _KEEPERS):
            todo += gc.get_referents(value)
    return size


MEGABYTE = "x" * 2**20


async def test_context_of_a_run_is_freed_with_its_end(tmp_path: Path) -> None:
    async with team_of(1, tmp_path) as (manager,):
        run, agent = await running(manager, "t")
        context = weakref.ref(agent.ctx)
        agent.forget()
        agent.may_end.set()
        await manager.wait(run.run_id, timeout=20)
        assert (run.task, run.task_active) != (None, True), "the record keeps its task"
        await wait_until(lambda: not jobs_of(manager), description="no job is under way")
        gc.collect()
        assert context() is None


@pytest.mark.parametrize("store", ["sqlite", "memory"])
async def test_large_results_are_not_kept_in_memory(tmp_path: Path, store: str) -> None:
    url = {"store": "memory://"} if store == "memory" else {}
    async with team_of(1, tmp_path, **url) as (manager,):
        for at in range(4):
            run, agent = await running(manager, f"t{at}", Agent(returns={"text": MEGABYTE + str(at)}))
            agent.may_end.set()
            assert await manager.wait(run.run_id, timeout=20) == {"text": MEGABYTE + str(at)}
        await wait_until(lambda: not jobs_of(manager), description="no job is under way")
        assert kept_by(manager) < 2**20


async def test_large_stored_inputs_are_evicted_early(tmp_path: Path) -> None:
    async with team_of(1, tmp_path, keep_finished_bytes=3 * 2**20) as (manager,):
        runs: list[str] = []
        for at in range(6):
            run = await manager.create_or_reject(f"t{at}", kwargs={"input": MEGABYTE + str(at)})
            manager.launch(run, quick)
            await manager.wait(run.run_id, timeout=20)
            runs.append(run.run_id)
        small = await finished(manager, "small")
        assert kept_by(manager) < 4 * 2**20
        assert small in records_of(manager)
        for run_id in runs:
            record = await manager.get(run_id)
            assert record is not None
            assert len(record.kwargs["input"]) == 2**20 + 1
            assert await manager.wait(run_id) == f"done {run_id}"


async def test_large_inputs_without_a_durable_store_are_kept_as_long_as_others(tmp_path: Path) -> None:
    async with team_of(1, tmp_path, store="memory://", keep_finished_bytes=0) as (manager,):
        run = await manager.create_or_reject("t", kwargs={"input": MEGABYTE})
        manager.launch(run, quick)
        await manager.wait(run.run_id, timeout=20)
        await finished(manager, "another")
        assert run.run_id in records_of(manager)
