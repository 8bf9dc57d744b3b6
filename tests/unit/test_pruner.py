"""The pruner beside working workers: it removes in the background, and no other call waits for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from coordinator import RunManager, Settings
from coordinator.workers.pruner import BATCH, Pruner, prune
from stores.memory import MemoryStore
from stores.pruning import Pruned, Retention
from stores.sqlite import SQLiteStore
from tests.support.agents import quick
from tests.support.builders import cancel, new_worker, running, sql_of
from tests.support.inside import assembly_of, pruning_task_of
from tests.support.teams import team_of
from tests.support.waiting import wait_until

MANY = 20_000
LONG_AGO = 1_000_000


def history(store: SQLiteStore, count: int) -> None:
    """That many settled runs on 50 threads, with one line of audit each."""
    sql_of(store)(
        "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?)"
        " INSERT INTO runs (run_id, thread_id, status, settled_at, started_at, created_at, created_us,"
        " updated_at)"
        " SELECT 'old' || n, 't' || (n % 50), 'success', ?, 1, '1970-01-01T00:00:00+00:00', n, n FROM n",
        count,
        LONG_AGO,
    )


@pytest.fixture
async def store(tmp_path: Path) -> AsyncGenerator[SQLiteStore]:
    store = SQLiteStore(tmp_path / "runs.db")
    await store.open()
    yield store
    await store.aclose()


async def test_a_cancel_is_not_delayed_by_a_prune(store: SQLiteStore) -> None:
    """The last of 50 threads stay. Cancels come between the batches: there are more of them than batches."""
    me = await store.register(new_worker())
    history(store, MANY)
    pruning = asyncio.create_task(prune(store, Retention(runs=1.0)))
    cancels = 0
    while not pruning.done():
        own = await running(store, me, f"busy{cancels}")
        await cancel(store, own.run_id)
        cancels += 1
    assert await pruning == Pruned(runs=MANY - 50, transitions=MANY - 50)
    assert cancels > MANY / BATCH


async def test_stopped_in_the_middle_it_leaves_whole_transactions(store: SQLiteStore) -> None:
    history(store, MANY)
    seen = asyncio.Event()

    def progress(removed: Pruned) -> None:
        if removed.runs > BATCH:
            seen.set()

    pruning = asyncio.create_task(prune(store, Retention(runs=1.0), progress=progress))
    async with asyncio.timeout(10):
        await seen.wait()
    pruning.cancel()
    await asyncio.wait((pruning,))
    execute = sql_of(store)
    ((runs,),) = execute("SELECT count(*) FROM runs")
    ((steps,),) = execute("SELECT count(*) FROM transitions")
    assert 50 < runs < MANY
    assert runs == steps


async def test_it_runs_at_its_interval_while_the_worker_works(tmp_path: Path) -> None:
    kept: dict[str, Any] = {"keep_finished": 0.0, "keep_runs": 0.2, "prune": 0.05, "jitter": 0.5}
    async with team_of(2, tmp_path, **kept) as (one, other):
        for at in range(6):
            run = await (one, other)[at % 2].create_or_reject("t")
            (one, other)[at % 2].launch(run, quick)
            await (one, other)[at % 2].wait(run.run_id, timeout=20)
        await wait_until(lambda: _only_one(one), description="all but the last are gone")


async def _only_one(manager: RunManager) -> bool:
    return len(await manager.runs.recent()) == 1


def test_runs_are_kept_for_thirty_days_unless_a_setting_changes_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = Settings()
    days = [kept and kept / 86_400 for kept in (settings.keep_runs, settings.keep_transitions)]
    assert days == [30, None]
    monkeypatch.setenv("COORDINATOR_KEEP_RUNS", "none")
    monkeypatch.setenv("COORDINATOR_KEEP_WORKERS", "none")
    assert (Settings().keep_runs, Settings().keep_workers) == (None, None)
    monkeypatch.setenv("COORDINATOR_KEEP_RUNS", "86400")
    assert Settings().keep_runs == 86_400


async def test_retention_of_runs_is_logged_once_at_start(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "coordinator.workers.pruner")
    async with RunManager() as manager:
        await manager.create_or_reject("t")
        assembly_of(manager).pruner.begin()
    (line,) = [line for line in caplog.messages if "days after they settled" in line]
    assert line.startswith("Runs are removed from the store 30 days after")
    assert "COORDINATOR_KEEP_RUNS" in line


async def test_rows_without_retention_are_not_examined() -> None:
    nothing = Pruner(MemoryStore(), Retention(), interval=0.001, jitter=0)
    nothing.begin()
    assert pruning_task_of(nothing) is None
    await nothing.stop()


def test_rows_outlive_the_records_that_could_write_them_anew() -> None:
    with pytest.raises(ValidationError, match="keep_finished"):
        Settings(keep_runs=10)


@pytest.mark.parametrize("limit", [1, BATCH])
async def test_a_pass_ends_whatever_the_size_of_its_steps(limit: int) -> None:
    store = MemoryStore()
    assert await prune(store, Retention(runs=0, transitions=0, workers=0)) == Pruned()
    step = await store.prune(Retention(), limit=limit)
    assert step.pruned == Pruned()
