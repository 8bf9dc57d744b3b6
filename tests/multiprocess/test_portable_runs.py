"""kill -9 of the home of a run that is queued or delayed: another worker executes the run."""

from __future__ import annotations

import time

import pytest

from tests.support.processes import Fleet, WorkerProcess

pytestmark = pytest.mark.multiprocess


async def finished(worker: WorkerProcess, run: str) -> None:
    await worker.do("end", run=run)
    assert await worker.do("wait", run=run) == "done"


async def test_portable_run_that_is_queued_is_executed_by_a_peer(fleet: Fleet) -> None:
    home, other = await fleet.of(2)
    holder = await other.do("admit", thread="t")
    await other.wait_for("started", holder)
    run = await home.do("admit", thread="t", strategy="enqueue", assistant="agent", returns="done")
    behind = await other.do("admit", thread="t", strategy="enqueue", assistant="agent")
    await home.kill()
    await other.do("end", run=holder)
    await other.wait_for("started", run)
    assert other.find_event("started", behind) is None, "it keeps its place"
    await finished(other, run)
    await other.wait_for("started", behind)


async def test_delayed_portable_run_is_executed_by_a_peer(fleet: Fleet) -> None:
    home, other = await fleet.of(2)
    called = time.monotonic()
    run = await home.do("admit", thread="t", strategy="enqueue", assistant="agent", returns="done", after=1.5)
    await home.kill()
    passes = await other.do("admit", thread="t", strategy="enqueue")
    await other.wait_for("started", passes)
    await other.do("end", run=passes)
    started = await other.wait_for("started", run)
    assert started["at"] - called >= 1.5
    await finished(other, run)


async def test_delayed_run_due_without_any_worker_is_executed_later(fleet: Fleet) -> None:
    home = await fleet.start()
    run = await home.do("admit", thread="t", strategy="enqueue", assistant="agent", returns="done", after=0.3)
    await home.kill()
    reborn = await fleet.start()
    await reborn.wait_for("started", run)
    await finished(reborn, run)


async def test_started_run_is_not_started_again(fleet: Fleet) -> None:
    home, other = await fleet.of(2)
    run = await home.do("admit", thread="t", strategy="enqueue", assistant="agent", after=0.1)
    await home.wait_for("started", run)
    await home.kill()
    again = await other.do("admit", thread="t", strategy="enqueue", assistant="agent")
    await other.wait_for("started", again)
    assert await other.do("status", run=run) == "error"
    assert other.find_event("started", run) is None
