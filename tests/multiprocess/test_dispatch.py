"""One worker that only admits, and two that execute: runs, streams, waits, cancels, and kill -9 of one that
executes."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.processes import Fleet, Refused, WorkerProcess, on_every_store
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.multiprocess, on_every_store]

SHORT = {"lease_ttl": 2.0}


async def three(fleet: Fleet) -> tuple[WorkerProcess, list[WorkerProcess]]:
    """The worker that admits, and those that execute, two runs each."""
    front = await fleet.start(admit_only=True, **SHORT)
    return front, [await fleet.start(max_running=2, **SHORT) for _ in range(2)]


async def admit(front: WorkerProcess, thread: str, strategy: str = "reject", **wish: object) -> str:
    run: str = await front.do(
        "admit", thread=thread, strategy=strategy, assistant="agent", launch=False, **wish
    )
    return run


def executes(workers: list[WorkerProcess], run: str) -> WorkerProcess | None:
    return next((each for each in workers if each.find_event("started", run) is not None), None)


async def executed(workers: list[WorkerProcess], run: str) -> WorkerProcess:
    await wait_until(lambda: executes(workers, run), description=f"run {run} is executed")
    worker = executes(workers, run)
    assert worker is not None
    return worker


async def test_runs_are_executed_followed_and_cancelled_through_the_admitting_worker(fleet: Fleet) -> None:
    front, workers = await three(fleet)
    run = await admit(front, "t", returns="done")
    await front.do("follow", run=run)
    worker = await executed(workers, run)
    await worker.do("emit", run=run, data=[1, 2])
    queued = await admit(front, "t", "enqueue", returns="next")
    await worker.do("end", run=run)
    assert await front.do("wait", run=run) == "done"
    ended = await front.wait_for("end", run)
    assert (ended["status"], ended["complete"]) == ("success", True)
    assert [event["data"] for event in front.events if event["event"] == "received"] == [1, 2]
    assert front.find_event("started") is None
    worker = await executed(workers, queued)
    assert await front.do("cancel", run=queued, wait=5)
    await worker.wait_for("cancelled", queued)
    replaced = await admit(front, "u")
    await executed(workers, replaced)
    replacing = await admit(front, "u", "rollback", returns=1, lasts=0)
    assert await front.do("wait", run=replacing) == 1
    assert await front.do("status", run=replaced) == "interrupted"
    with pytest.raises(Refused, match="only admits"):
        await front.do("admit", thread="v")


async def test_workers_take_runs_within_their_limits_in_order_and_survive_a_kill(fleet: Fleet) -> None:
    front, workers = await three(fleet)
    runs = [await admit(front, f"t{number}", returns=number) for number in range(8)]
    first = [await executed(workers, run) for run in runs[:4]]
    assert sorted(map(first.count, workers)) == [2, 2]
    assert all(executes(workers, run) is None for run in runs[4:]), "no worker takes more than its limit"
    victim, survivor = first[0], next(each for each in workers if each is not first[0])
    lost = [run for run, worker in zip(runs, first, strict=False) if worker is victim]
    kept = [run for run, worker in zip(runs, first, strict=False) if worker is survivor]
    await victim.kill()
    await survivor.do("end", run=kept[0])
    for run in runs[4:]:
        await wait_until(
            lambda run=run: survivor.find_event("started", run), description=f"run {run} is executed"
        )
        await survivor.do("end", run=run)
    started = [event["run"] for event in survivor.events if event["event"] == "started"]
    assert [run for run in started if run in runs[4:]] == runs[4:], "the oldest one first"
    await survivor.do("end", run=kept[1])
    results = await asyncio.gather(*(front.do("wait", run=run) for run in (*kept, *runs[4:])))
    assert results == [runs.index(run) for run in (*kept, *runs[4:])]
    for run in lost:
        await wait_until(lambda run=run: _is(front, run, "error"), description="the lost run has ended")


async def _is(worker: WorkerProcess, run: str, status: str) -> bool:
    return await worker.do("status", run=run) == status


async def test_runs_wait_for_a_worker_that_executes(fleet: Fleet) -> None:
    front = await fleet.start(admit_only=True, **SHORT)
    run = await admit(front, "t", returns=1, lasts=0)
    cancelled = await admit(front, "u")
    assert await front.do("cancel", run=cancelled, wait=5)
    await front.kill()
    late = await fleet.start(**SHORT)
    assert await late.do("wait", run=run) == 1
