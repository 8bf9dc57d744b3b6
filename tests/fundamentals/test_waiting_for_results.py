"""`wait` returns when the run has settled, on its own worker and on any other."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from coordinator import (
    Ended,
    Interrupt,
    NotSettled,
    Outcome,
    RunContext,
    RunFailed,
    RunManager,
    RunNotFound,
    RunStatus,
)
from tests.support.agents import Agent, quick, running
from tests.support.teams import QUICK, on_every_store
from tests.support.waiting import wait_until

pytestmark = on_every_store

ANYWHERE = pytest.mark.parametrize("asker", [0, 1], ids=["owner", "other worker"])


@ANYWHERE
async def test_wait_returns_the_result(team: list[RunManager], asker: int) -> None:
    run, agent = await running(team[0], "t", Agent(returns={"answer": 42}))
    asking = asyncio.create_task(team[asker].wait(run.run_id, timeout=20))
    agent.may_end.set()
    assert await asking == {"answer": 42}


@ANYWHERE
async def test_wait_returns_the_result_of_an_evicted_run(team: list[RunManager], asker: int) -> None:
    run = await team[0].create_or_reject("t")
    team[0].launch(run, quick)
    await team[0].wait(run.run_id, timeout=20)
    assert await team[asker].wait(run.run_id) == f"done {run.run_id}"


@ANYWHERE
async def test_wait_raises_run_failed(team: list[RunManager], asker: int) -> None:
    run = await team[0].create_or_reject("t")

    async def failing(ctx: object) -> None:
        raise RuntimeError("no model")

    team[0].launch(run, failing)
    with pytest.raises(RunFailed, match="RuntimeError: no model"):
        await team[asker].wait(run.run_id, timeout=20)


@ANYWHERE
async def test_ended_returns_every_kind_of_end(team: list[RunManager], asker: int) -> None:
    """`wait` raises for a failed run, and returns None both for an interrupted run and for one without a
    result."""

    async def failing(ctx: object) -> None:
        raise RuntimeError("no model")

    async def asking(ctx: object) -> Outcome:
        return Outcome(result="so far", paused=True, interrupts=(Interrupt("may I?", "q"),))

    ended = list[Ended]()
    for agent in (quick, failing, asking):
        run = await team[0].create_or_reject("t")
        team[0].launch(run, agent)
        ended.append(await team[asker].ended(run.run_id, timeout=20))
    stopped, _ = await running(team[0], "t")
    assert await team[0].cancel(stopped.run_id, wait=20)
    ended.append(await team[asker].ended(stopped.run_id))
    well, badly, paused, cancelled = ended
    assert (well.status, well.error, well.paused) == (RunStatus.success, None, False)
    assert well.result.startswith("done ")
    assert (badly.status, badly.error) == (RunStatus.error, "RuntimeError: no model")
    assert (paused.status, paused.result, paused.paused) == (RunStatus.success, "so far", True)
    assert [one["value"] for one in paused.interrupts] == ["may I?"]
    assert (cancelled.status, cancelled.result) == (RunStatus.interrupted, None)


@ANYWHERE
async def test_wait_raises_timeout_error(team: list[RunManager], asker: int) -> None:
    run, _ = await running(team[0], "t")
    with pytest.raises(TimeoutError):
        await team[asker].wait(run.run_id, timeout=0.1)


async def test_wait_for_an_unknown_run_raises_run_not_found(team: list[RunManager]) -> None:
    with pytest.raises(RunNotFound):
        await team[0].wait("no such run")


async def test_unstorable_result_ends_the_run_as_error(team: list[RunManager]) -> None:
    run = await team[0].create_or_reject("t")

    async def odd(ctx: object) -> object:
        return object()

    team[0].launch(run, odd)
    with pytest.raises(RunFailed, match="cannot be stored as JSON"):
        await team[1].wait(run.run_id, timeout=20)
    assert not await team[1].has_inflight("t")


@ANYWHERE
async def test_settled_run_is_returned_with_any_timeout(team: list[RunManager], asker: int) -> None:
    run, agent = await running(team[0], "t", Agent(returns={"answer": 42}))
    agent.may_end.set()
    await team[0].wait(run.run_id, timeout=20)
    assert await team[asker].wait(run.run_id, timeout=0) == {"answer": 42}
    stopped, _ = await running(team[0], "t")
    assert await team[0].cancel(stopped.run_id, wait=20)
    assert await team[asker].cancel(stopped.run_id, wait=0)
    assert await team[asker].wait(stopped.run_id, timeout=0) is None


@ANYWHERE
async def test_unsettled_run_is_not_returned_with_a_zero_timeout(team: list[RunManager], asker: int) -> None:
    run, agent = await running(team[0], "t", Agent(stubborn=True))
    with pytest.raises(TimeoutError):
        await team[asker].wait(run.run_id, timeout=0)
    with pytest.raises(NotSettled):
        await team[asker].cancel(run.run_id, wait=0)
    agent.may_stop.set()


RESULTS: dict[str, Any] = {
    "keys and tuples": {1: (2, 3), "k": [1], None: True},
    "text": "half a character: \ud83d, NUL: \0, ü",
    "numbers": [1e300, -0.0, 10**40, True],
    "nothing": None,
    "large": {"rows": [{"n": n, "text": "x" * 50} for n in range(500)]},
}


@pytest.mark.parametrize("result", RESULTS.values(), ids=RESULTS.keys())
async def test_result_is_the_same_from_every_worker(team: list[RunManager], result: Any) -> None:
    run, agent = await running(team[0], "t", Agent(returns=result))
    agent.may_end.set()
    owner = await team[0].wait(run.run_id, timeout=20)
    assert owner == await team[1].wait(run.run_id, timeout=20) == json.loads(json.dumps(result))


@ANYWHERE
async def test_changed_result_affects_no_other_caller(team: list[RunManager], asker: int) -> None:
    given: dict[str, list[Any]] = {"k": [1]}
    run, agent = await running(team[0], "t", Agent(returns=given))
    agent.may_end.set()
    first: Any = await team[asker].wait(run.run_id, timeout=20)
    first["k"].append("changed by its caller")
    given["k"].append("changed by its agent")
    assert await team[asker].wait(run.run_id, timeout=20) == {"k": [1]}


def resident() -> int:
    """Bytes of this process, without what the allocator has free for later."""
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def long_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading and writing large results takes seconds on a busy machine. No worker may be declared dead for
    that."""
    monkeypatch.setitem(QUICK, "lease_ttl", 60.0)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.usefixtures("long_leases")
async def test_result_of_fifty_megabytes_is_returned_by_every_worker_and_freed(
    team: list[RunManager],
) -> None:
    """Small runs come and go on both workers meanwhile, and return values: SQLite keeps the last parameters
    of a statement until it is given others."""
    size, over = 50 * 2**20, asyncio.Event()

    async def counting(ctx: RunContext) -> dict[str, str]:
        return {"text": ctx.run.run_id}

    async def small(worker: RunManager, thread_id: str) -> int:
        count = 0
        while not over.is_set():
            other = await worker.create_or_reject(thread_id)
            worker.launch(other, counting)
            assert await worker.wait(other.run_id, timeout=20) == {"text": other.run_id}
            count += 1
        return count

    others = [asyncio.create_task(small(worker, f"small {at}")) for at, worker in enumerate(team)]
    before = resident()
    run, agent = await running(team[0], "large", Agent(returns={"text": "x" * size}))
    agent.may_end.set()
    for worker in (*team, *team):
        result = await worker.wait(run.run_id, timeout=40)
        assert isinstance(result, dict)
        assert result == {"text": "x" * size}
        del result
    agent.returns = None
    await wait_until(lambda: resident() < before + size // 2, description="none of it is left")
    over.set()
    assert min(await asyncio.gather(*others)) > 0
