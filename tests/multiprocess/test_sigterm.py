"""SIGTERM to real workers: a run that finishes in the grace keeps its success, no run delays the exit."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.support.processes import Fleet, Refused, WorkerProcess, fleet_on
from tests.support.waiting import wait_until

pytestmark = pytest.mark.multiprocess

BOUND = 5.0


@pytest.fixture
async def patient(tmp_path: Path) -> AsyncGenerator[Fleet]:
    """Workers with a long grace."""
    async with fleet_on(tmp_path, grace=60) as made:
        yield made


async def draining(worker: WorkerProcess, seen_by: WorkerProcess) -> None:
    async def shows() -> bool:
        workers = await seen_by.do("workers")
        return bool(workers[str(worker.epoch)] == "draining")

    await wait_until(shows, description="it drains")


async def test_a_run_that_finishes_in_its_grace_keeps_its_success(patient: Fleet) -> None:
    """Reported failure 34. The worker answers during its grace: it refuses admissions, and cancels."""
    leaver, other = await patient.of(2)
    run = await leaver.do("admit", thread="t", returns="done")
    stopped = await leaver.do("admit", thread="t2")
    for started in (run, stopped):
        await leaver.wait_for("started", started)
    leaver.send(signal.SIGTERM)
    await draining(leaver, other)
    with pytest.raises(Refused, match="draining, retry elsewhere") as refused:
        await leaver.do("admit", thread="t3")
    assert refused.value.name == "Draining"
    assert await other.do("cancel", run=stopped, wait=5), "reported failure 7"
    await leaver.do("end", run=run)
    _, status = await leaver.gone()
    assert status == 0
    assert await other.do("wait", run=run) == "done"
    assert await other.do("status", run=run) == "success"
    assert await other.do("status", run=stopped) == "interrupted"
    assert (await other.do("workers"))[str(leaver.epoch)] == "dead"


async def test_run_that_does_not_finish_in_the_grace_is_cancelled_with_its_cause(tmp_path: Path) -> None:
    async with fleet_on(tmp_path, grace=0.5) as fleet:
        leaver, other = await fleet.of(2)
        run = await leaver.do("admit", thread="t")
        await leaver.wait_for("started", run)
        leaver.send(signal.SIGTERM)
        assert (await leaver.wait_for("cancelled", run))["cause"] == "shutdown"
        _, status = await leaver.gone()
        assert status == 0
        assert await other.do("status", run=run) == "interrupted"
        assert not await other.do("inflight", thread="t")


@pytest.mark.parametrize("in_the_way", ["a deaf task", "a job in a thread"])
async def test_blocked_code_does_not_delay_the_exit(tmp_path: Path, in_the_way: str) -> None:
    """Reported failures 34 and 37: gone within grace + 5 s, its threads free, nothing left to a reaper."""
    grace = 0.5
    async with fleet_on(tmp_path, grace=grace, force_after=60) as fleet:
        leaver, other = await fleet.of(2)
        run = await leaver.do("admit", thread="t", deaf=in_the_way == "a deaf task")
        await leaver.wait_for("started", run)
        if in_the_way == "a job in a thread":
            await leaver.do("occupy", seconds=60)
        signalled = time.monotonic()
        leaver.send(signal.SIGTERM)
        ended, status = await leaver.gone()
        assert ended - signalled < grace + BOUND
        assert status == 128 + signal.SIGTERM, "the backstop had to end it"
        assert await other.do("status", run=run) == "interrupted"
        assert not await other.do("inflight", thread="t")
        cancels = [event for event in leaver.events if event["event"] == "cancelled"]
        assert len(cancels) == 1


async def test_second_signal_ends_the_grace(patient: Fleet) -> None:
    leaver, other = await patient.of(2)
    run = await leaver.do("admit", thread="t")
    await leaver.wait_for("started", run)
    leaver.send(signal.SIGTERM)
    await draining(leaver, other)
    assert leaver.find_event("cancelled", run) is None
    signalled = time.monotonic()
    leaver.send(signal.SIGTERM)
    ended, status = await leaver.gone()
    assert ended - signalled < BOUND
    assert status == 0
    assert (await leaver.wait_for("cancelled", run))["cause"] == "shutdown"
    assert await other.do("status", run=run) == "interrupted"


async def test_worker_killed_during_its_drain(patient: Fleet) -> None:
    """Reported failure 23, under drain: a cancelled run is settled as such, the other ends as an error."""
    leaver, other = await patient.of(2)
    cancelled = await leaver.do("admit", thread="t", unwinds=60)
    runs = await leaver.do("admit", thread="t2")
    for run in (cancelled, runs):
        await leaver.wait_for("started", run)
    leaver.send(signal.SIGTERM)
    await draining(leaver, other)
    assert await other.do("cancel", run=cancelled)
    await leaver.wait_for("cancelled", cancelled)
    await leaver.kill()
    for thread in ("t", "t2"):

        async def free(thread: str = thread) -> bool:
            return not await other.do("inflight", thread=thread)

        await wait_until(free, description="the thread is free")
    assert await other.do("status", run=cancelled) == "interrupted"
    assert await other.do("status", run=runs) == "error"
