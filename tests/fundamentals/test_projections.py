"""A table of a gateway's own follows the rows of runs: every change is passed to it, at least once, in order,
and runs do not wait for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from coordinator import InvalidArgument, Projection, RunChange, RunManager, Settings, open_coordinator
from coordinator.schemas import User
from coordinator.telemetry.log import LoggingHook
from stores.states import RunStatus
from tests.support.agents import launched, running
from tests.support.postgres import Database
from tests.support.teams import QUICK
from tests.support.waiting import wait_until


class Table:
    """What a gateway keeps: the status of each run. Raises while `broken`."""

    def __init__(self) -> None:
        self.rows: dict[str, str] = {}
        self.seqs: dict[str, int] = {}
        self.changes: list[RunChange] = []
        self.broken: set[str] = set()
        """Threads whose changes cannot be applied."""
        self.attempts = 0
        self.delivering, self.may_apply = asyncio.Event(), asyncio.Event()
        self.may_apply.set()

    async def apply(self, change: RunChange) -> None:
        self.attempts += 1
        self.delivering.set()
        await self.may_apply.wait()
        if change.thread_id in self.broken:
            raise ConnectionError("the table is locked")
        assert change.seq > self.seqs.get(change.run_id, 0), "a change is not older than those before"
        self.seqs[change.run_id] = change.seq
        self.changes.append(change)
        if change.run is None:
            del self.rows[change.run_id]
        else:
            self.rows[change.run_id] = change.run.status

    def whats(self, run_id: str) -> list[str]:
        return [change.what for change in self.changes if change.run_id == run_id]


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture(params=["sqlite", "postgres"])
async def team(
    request: pytest.FixtureRequest, tmp_path: Path, shared_postgres: Database, table: Table
) -> AsyncGenerator[list[RunManager]]:
    """Two workers with one projection."""
    async with AsyncExitStack() as stack:
        where: dict[str, Any] = {"store": f"sqlite:///{tmp_path / 'runs.db'}"}
        if request.param == "postgres":
            url, schema = await stack.enter_async_context(shared_postgres.worker())
            where = {"store": url, "postgres_schema": schema}
        settings = Settings(**{**QUICK, **where})
        workers = [
            await stack.enter_async_context(
                open_coordinator(settings=settings, projections=[Projection("table", table.apply)])
            )
            for _ in range(2)
        ]
        yield workers


async def equal(manager: RunManager, table: Table) -> None:
    """Returns when the table has the rows of the store."""

    async def same() -> bool:
        return table.rows == {row.run_id: row.status for row in await manager.store.runs(limit=1000)}

    await wait_until(same, description="the table has the rows of the store")


async def test_projection_does_not_get_the_user_of_a_run(team: list[RunManager], table: Table) -> None:
    run = await team[0].create_or_reject("t", user=User("ann", ("right",), {"team": "red"}))
    await equal(team[0], table)
    [change] = table.changes
    assert change.run is not None
    assert (change.run.run_id, change.run.user_id) == (run.run_id, "ann")
    assert change.run.user_document is None


async def test_table_has_the_rows_of_all_workers_runs(team: list[RunManager], table: Table) -> None:
    first, second = team
    done, agent = await running(first, "t")
    replaced, _ = await running(second, "u")
    replacing, other = await launched(first, "u", multitask_strategy="rollback")
    queued, _ = await launched(second, "t", multitask_strategy="enqueue")
    await first.cancel(queued.run_id, wait=5)
    agent.may_end.set()
    await other.started.wait()
    other.may_end.set()
    await second.wait(replacing.run_id, timeout=10)
    await second.wait(done.run_id, timeout=10)
    await equal(first, table)
    assert table.rows == {
        done.run_id: RunStatus.success,
        replaced.run_id: RunStatus.interrupted,
        replacing.run_id: RunStatus.success,
        queued.run_id: RunStatus.interrupted,
    }
    assert table.whats(done.run_id) == ["admitted", "started", "finished"]
    assert table.whats(replaced.run_id)[2:] == ["decided", "settled"]
    decided = next(one.seq for one in table.changes if one.what == "decided")
    assert decided < next(one.seq for one in table.changes if one.run_id == replacing.run_id)
    await second.runs.delete(done.run_id)
    await equal(first, table)
    assert done.run_id not in table.rows


async def test_failing_projection_is_retried_and_delays_its_thread_alone(
    team: list[RunManager], table: Table
) -> None:
    manager, peer = team
    table.broken.add("t")
    run, agent = await running(manager, "t")
    agent.may_end.set()
    await manager.wait(run.run_id, timeout=10)
    other, agent = await running(peer, "u")
    agent.may_end.set()
    await manager.wait(other.run_id, timeout=10)
    await wait_until(lambda: other.run_id in table.rows, description="the other thread's changes are applied")
    assert table.rows.keys() == {other.run_id}
    reasons = [one for each in team for one in (await each.worker.health()).failing_projections]
    assert any("table is locked" in reason and run.run_id in reason for reason in reasons)
    assert all([(await each.worker.health()).ready for each in team])
    pending = (await manager.runs.explain(run.run_id)).pending_changes
    assert [(one.projection, one.what) for one in pending] == [
        ("table", "admitted"),
        ("table", "started"),
        ("table", "finished"),
    ]
    assert pending[0].error == "ConnectionError: the table is locked"

    async def others_reported() -> bool:
        (row,) = await manager.projections.search()
        return (row.name, row.pending, row.failing) == ("table", 3, 1)

    await wait_until(others_reported, description="only the changes of the failing thread are left")
    table.broken.clear()
    await equal(manager, table)
    assert table.whats(run.run_id) == ["admitted", "started", "finished"]
    await wait_until(
        lambda: _healthy(team), description="the workers report no failing projection", timeout=10
    )


async def _healthy(team: list[RunManager]) -> bool:
    return not any([(await each.worker.health()).failing_projections for each in team])


async def test_failing_projection_is_logged_once_and_when_it_works_again(
    tmp_path: Path, table: Table, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    threads = [f"t{number}" for number in range(5)]
    table.broken.update(threads)
    settings = Settings(store=f"sqlite:///{tmp_path / 'runs.db'}", **QUICK)
    async with open_coordinator(
        settings=settings, projections=[Projection("table", table.apply)], hooks=[LoggingHook()]
    ) as manager:
        for thread in threads:
            await launched(manager, thread)

        async def all_failing() -> bool:
            (row,) = await manager.projections.search()
            return row.failing == len(threads)

        await wait_until(all_failing, description="the changes of each thread have failed")
        [line] = projection_lines(caplog)
        assert line.levelno == logging.WARNING
        assert "projection 'table' could not apply change" in line.getMessage()
        assert line.exc_info is not None
        assert isinstance(line.exc_info[1], ConnectionError)
        table.broken.clear()
        await equal(manager, table)
        await wait_until(lambda: len(projection_lines(caplog)) == 2, description="the recovery is logged")
        recovery = projection_lines(caplog)[1]
        assert recovery.levelno == logging.INFO
        assert "projection 'table' works again" in recovery.getMessage()


def projection_lines(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if "projection" in record.getMessage()]


async def test_runs_do_not_wait_for_a_projection(team: list[RunManager], table: Table) -> None:
    manager, _ = team
    table.may_apply.clear()
    run, agent = await running(manager, "t")
    await table.delivering.wait()
    agent.may_end.set()
    await manager.wait(run.run_id, timeout=10)
    assert table.attempts == 1, "one worker delivers, and one change at a time"
    table.may_apply.set()
    await equal(manager, table)


async def test_worker_that_leaves_delivers_its_last_changes(tmp_path: Path, table: Table) -> None:
    settings = Settings(store=f"sqlite:///{tmp_path / 'runs.db'}", **QUICK)
    async with open_coordinator(settings=settings, projections=[Projection("t", table.apply)]) as manager:
        run, _ = await running(manager, "t")
    assert table.rows == {run.run_id: RunStatus.interrupted}


async def test_projection_that_is_new_gets_the_runs_before_it(tmp_path: Path, table: Table) -> None:
    settings = Settings(store=f"sqlite:///{tmp_path / 'runs.db'}", **QUICK)
    async with open_coordinator(settings=settings) as manager:
        run, agent = await running(manager, "t")
        agent.may_end.set()
        await manager.wait(run.run_id, timeout=10)
        assert await manager.projections.search() == []
    async with open_coordinator(settings=settings, projections=[Projection("t", table.apply)]) as manager:
        await equal(manager, table)
        assert table.whats(run.run_id) == ["existing"]
        assert await manager.projections.remove("t")
        assert not await manager.projections.remove("t")


async def test_call_that_takes_too_long_has_failed(tmp_path: Path) -> None:
    attempts = 0

    async def hangs(change: RunChange) -> None:
        nonlocal attempts
        attempts += 1
        if change.attempt == 1:
            await asyncio.Event().wait()

    settings = Settings(store=f"sqlite:///{tmp_path / 'runs.db'}", **QUICK)
    projection = Projection("t", hangs, timeout=0.05)
    async with open_coordinator(settings=settings, projections=[projection]) as manager:
        run, agent = await running(manager, "t")
        agent.may_end.set()

        async def delivered() -> bool:
            return not (await manager.runs.explain(run.run_id)).pending_changes

        await wait_until(delivered, description="the changes were passed again")
    assert attempts >= 2


async def test_projection_is_refused(tmp_path: Path, table: Table) -> None:
    async with open_coordinator("memory://") as manager:
        manager.projections.add(Projection("a", table.apply))
        with pytest.raises(InvalidArgument, match="'a' is added already"):
            manager.projections.add(Projection("a", table.apply))
        with pytest.raises(InvalidArgument, match="greater than 0"):
            manager.projections.add(Projection("b", table.apply, timeout=0))
    opened = RunManager()
    opened.projections.add(Projection("a", table.apply))
    async with opened:
        with pytest.raises(InvalidArgument, match="the manager is open"):
            opened.projections.add(Projection("b", table.apply))
