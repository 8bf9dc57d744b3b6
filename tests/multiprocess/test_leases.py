"""Leases of real processes: a blocked event loop, a pause, a kill, a file locked by another program."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import time
from collections.abc import AsyncGenerator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from coordinator import Settings
from stores import gate as gates
from tests.support.builders import stored
from tests.support.processes import Fleet, Refused, WorkerProcess, fleet_on
from tests.support.waiting import wait_until

pytestmark = pytest.mark.multiprocess

SHORT: dict[str, Any] = {"renew": 0.2, "lease_ttl": 1.0, "lease_margin": 0.3, "sweep": 0.1}


@pytest.fixture
async def short(tmp_path: Path) -> AsyncGenerator[Fleet]:
    async with fleet_on(tmp_path, **SHORT) as made:
        yield made


async def test_copying_the_gate_file_in_a_worker_of_its_own_ends_nothing(
    short: Fleet, tmp_path: Path
) -> None:
    copying, other = await short.of(2)
    run = await copying.do("admit", thread="t")
    await copying.wait_for("started", run)
    await copying.do("copy", path=str(tmp_path / "runs.db-gate"), to=str(tmp_path / "copy"))
    for _ in range(3):
        assert await other.do("reconcile", error="gone") == []
    assert await other.do("status", run=run) == "running"
    await copying.do("end", run=run)
    await other.do("wait", run=run)
    assert await other.do("status", run=run) == "success"
    assert await copying.do("epoch") == copying.epoch


async def free(worker: WorkerProcess, thread: str) -> bool:
    return not await worker.do("inflight", thread=thread)


async def test_worker_with_loop_blocked_longer_than_the_lease_stays_live(short: Fleet) -> None:
    """Reported failure 18: the heart beats in a thread of its own."""
    blocked, other = await short.of(2)
    run = await blocked.do("admit", thread="t")
    await blocked.wait_for("started", run)
    blocking = asyncio.create_task(blocked.do("block", seconds=3.0))
    await blocked.wait_for("blocking")
    while not blocking.done():
        assert await other.do("reconcile", error="gone") == []
        assert await other.do("status", run=run) == "running"
        await asyncio.wait((blocking,), timeout=0.2)
    assert await blocked.do("epoch") == blocked.epoch
    await blocked.do("end", run=run)
    await other.do("wait", run=run)
    assert await other.do("status", run=run) == "success"


async def test_worker_with_loop_blocked_past_stall_limit_is_declared_dead(short: Fleet) -> None:
    blocked, other = await short.start(stall_limit=0.5), await short.start()
    run = await blocked.do("admit", thread="t")
    await blocked.wait_for("started", run)
    blocking = asyncio.create_task(blocked.do("block", seconds=4.0))
    await blocked.wait_for("blocking")
    await wait_until(lambda: free(other, "t"), description="its peer has declared it dead")
    assert not blocking.done()
    assert await other.do("status", run=run) == "error"
    await blocking
    await blocked.wait_for("cancelled", run)
    await wait_until(lambda: registered_anew(blocked), description="a new epoch")
    log = "".join(blocked.complaints)
    assert "The event loop has been blocked for" in log
    assert "time.sleep(seconds)" in log, "with the stack of what blocks it"


async def registered_anew(worker: WorkerProcess) -> bool:
    return bool(await worker.do("epoch") > worker.epoch)


async def test_writes_of_paused_worker_are_refused_after_it_is_declared_dead(
    short: Fleet, tmp_path: Path
) -> None:
    """Reported failure 20: every kind of write, again and again, from tasks that do not know yet."""
    zombie, other = await short.of(2)
    runs = [await zombie.do("admit", thread=f"t{at}") for at in range(5)]
    await zombie.wait_for("started", runs[-1])
    writing = [asyncio.create_task(zombie.do("scribble", run=run)) for run in runs]
    await wait_until(lambda: scribbled(tmp_path, runs), description="all of them write")
    await pause_outside_a_transaction(zombie, tmp_path)
    for at in range(len(runs)):
        await wait_until(lambda at=at: free(other, f"t{at}"), description="it is declared dead", timeout=10)
    before = snapshot(tmp_path)
    zombie.send(signal.SIGCONT)
    for task in writing:
        with pytest.raises(Refused) as refused:
            await task
        assert refused.value.name in ("LeaseLost", "StaleFence", "CancelledError")
    await wait_until(lambda: registered_anew(zombie), description="a new epoch")
    after = snapshot(tmp_path)
    assert {key: (before.get(key), value) for key, value in after.items() if before.get(key) != value} == {}


async def pause_outside_a_transaction(worker: WorkerProcess, folder: Path) -> None:
    """A worker paused inside one holds the write lock: no peer could declare it dead."""
    gate = gates.gate_of(folder / "runs.db")
    assert gate is not None
    try:
        worker.send(signal.SIGSTOP)
        while gate.writer_pid() == worker.pid:
            worker.send(signal.SIGCONT)
            await asyncio.sleep(0)
            worker.send(signal.SIGSTOP)
    finally:
        gates.release(gate)


def scribbled(folder: Path, runs: list[str]) -> bool:
    return len(stored(folder / "runs.db", 'SELECT thread_id FROM threads WHERE "values" IS NOT NULL')) == len(
        runs
    )


def snapshot(folder: Path) -> dict[tuple[str, str], Any]:
    """Everything that a run may write, by row and column."""
    cells: dict[tuple[str, str], Any] = {}
    with closing(sqlite3.connect(folder / "runs.db")) as cx:
        cx.row_factory = sqlite3.Row
        for row in cx.execute("SELECT * FROM runs"):
            cells |= {(row["run_id"], column): row[column] for column in row.keys()}  # noqa: SIM118 - a Row iterates over values
        for row in cx.execute('SELECT thread_id, fence, "values" FROM threads'):
            cells |= {(row["thread_id"], column): row[column] for column in row.keys()}  # noqa: SIM118 - the same
    return cells


async def test_killed_worker_is_detected_with_the_default_sweep(tmp_path: Path) -> None:
    """On one host the operating system proves its death: free within sweep + 1 s, whatever the lease."""
    sweep = Settings().sweep
    async with fleet_on(tmp_path, sweep=sweep, lease_ttl=15, renew=5, lease_margin=3) as fleet:
        victim, other = await fleet.of(2)
        run = await victim.do("admit", thread="t")
        await victim.wait_for("started", run)
        await victim.kill()
        took = await wait_until(lambda: free(other, "t"), description="it is free", timeout=sweep + 5)
        assert took <= sweep + 1


async def test_file_locked_by_another_program_for_five_seconds_fences_no_worker(tmp_path: Path) -> None:
    """With the default lease. Writes wait for the lock; no worker is declared dead, nothing is lost."""
    defaults = {name: getattr(Settings(), name) for name in ("renew", "lease_ttl", "lease_margin", "sweep")}
    async with fleet_on(tmp_path, **defaults) as fleet:
        workers = await fleet.of(2)
        runs = [await worker.do("admit", thread=f"t{at}") for at, worker in enumerate(workers)]
        for worker, run in zip(workers, runs, strict=True):
            await worker.wait_for("started", run)
        with closing(sqlite3.connect(tmp_path / "runs.db", isolation_level=None)) as stranger:
            stranger.execute("BEGIN EXCLUSIVE")
            locked = time.monotonic()
            late = asyncio.create_task(workers[0].do("admit", thread="late"))
            while time.monotonic() < locked + 5:
                assert not late.done()
                await asyncio.wait((late,), timeout=0.2)
            stranger.execute("ROLLBACK")
        assert await late
        for worker, run in zip(workers, runs, strict=True):
            assert await worker.do("epoch") == worker.epoch
            await worker.do("end", run=run)
            await worker.do("wait", run=run)
            assert await worker.do("status", run=run) == "success"


async def test_run_that_waited_on_a_killed_worker_is_executed_by_its_successor(fleet: Fleet) -> None:
    """Reported failure 45: the queued run is executed once; the started run is not executed again."""
    victim, holder = await fleet.of(2)
    first = await holder.do("admit", thread="t")
    await holder.wait_for("started", first)
    began = await victim.do("admit", thread="u", assistant="agent")
    await victim.wait_for("started", began)
    waiting = await victim.do("admit", thread="t", strategy="enqueue", assistant="agent", returns=7)
    await victim.kill()
    successor = await fleet.start()
    await holder.do("end", run=first)
    await wait_until(
        lambda: successor.find_event("started", waiting) or holder.find_event("started", waiting),
        description="a worker with the assistant runs it",
    )
    both = (successor, holder)
    assert sum(worker.find_event("started", waiting) is not None for worker in both) == 1
    for worker in both:
        await worker.do("end", run=waiting)
    assert await holder.do("wait", run=waiting) == 7
    assert await holder.do("status", run=began) == "error"
    assert not any(worker.find_event("started", began) for worker in both)
