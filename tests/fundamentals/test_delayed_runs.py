"""Delayed runs are durable, block no other run before their time, and then join the queue."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from coordinator import ConflictError, IdempotencyConflict, RunContext, RunFailed, RunManager, RunStatus
from tests.fundamentals.test_portable_runs import gateway
from tests.fundamentals.test_worker_death import SHORT, gone, hang
from tests.support.agents import Agent, launched, running
from tests.support.waiting import wait_until

SOON = 1.5
"""s; long enough for another admission on a busy machine."""


async def delayed(
    manager: RunManager, thread: str = "t", seconds: float = 0.2, strategy: str = "enqueue", **fields: Any
) -> tuple[str, Agent]:
    record, agent = await launched(
        manager, thread, multitask_strategy=strategy, after_seconds=seconds, **fields
    )
    return record.run_id, agent


async def started(agent: Agent) -> None:
    async with asyncio.timeout(10):
        await agent.started.wait()


async def test_delayed_run_starts_when_its_delay_is_over(team: list[RunManager]) -> None:
    """It starts within a tenth of a second, although the tick is slower. Its `created_at` is its due time, as
    clients expect."""
    a, b = team
    requested_at = datetime.now(UTC)
    run_id, agent = await delayed(a, seconds=0.3)
    record = await b.get(run_id)
    assert record is not None
    assert record.status is RunStatus.pending
    delay = datetime.fromisoformat(record.created_at) - requested_at
    assert timedelta(seconds=0.25) < delay < timedelta(seconds=1)
    assert (await b.runs.explain(run_id)).run.delayed
    await started(agent)
    assert datetime.now(UTC) - requested_at >= timedelta(seconds=0.3)
    agent.may_end.set()
    await b.wait(run_id, timeout=20)
    row = (await a.runs.explain(run_id)).run
    assert (row.status, row.delayed) == (RunStatus.success, False)


async def test_later_run_starts_before_a_delayed_one(team: list[RunManager]) -> None:
    a, b = team
    run_id, late = await delayed(a, seconds=SOON)
    _, first = await running(b, "t", multitask_strategy="enqueue")
    assert not late.started.is_set()

    async def is_due() -> bool:
        return not (await b.runs.explain(run_id)).run.delayed

    await wait_until(is_due, description="it is due while another run holds the thread")
    _, last = await launched(b, "t", multitask_strategy="enqueue")
    assert not late.started.is_set()
    first.may_end.set()
    await started(late)
    assert not last.started.is_set()
    late.may_end.set()
    await started(last)
    last.may_end.set()


async def test_delayed_run_can_be_cancelled_before_its_start(team: list[RunManager]) -> None:
    a, b = team
    run_id, agent = await delayed(a, seconds=3600)
    assert await b.cancel(run_id, wait=5)
    record = await a.get(run_id)
    assert record is not None
    assert record.task is not None
    async with asyncio.timeout(20):
        await asyncio.wait((record.task,))
    assert record.status is RunStatus.interrupted
    assert not agent.started.is_set()
    await running(b, "t")


@pytest.mark.parametrize("strategy", ["interrupt", "rollback"])
async def test_replacing_run_replaces_delayed_runs(team: list[RunManager], strategy: str) -> None:
    a, b = team
    run_id, agent = await delayed(a, seconds=3600)
    await running(b, "t", multitask_strategy=strategy)
    assert await a.wait(run_id, timeout=20) is None
    assert not agent.started.is_set()


async def test_reject_counts_delayed_runs(team: list[RunManager]) -> None:
    a, b = team
    run_id, _ = await delayed(a, seconds=3600)
    with pytest.raises(ConflictError) as conflict:
        await b.create_or_reject("t")
    assert conflict.value.active_run_id == run_id
    with pytest.raises(ConflictError):
        await b.threads.replace_values("t", {})
    assert await b.has_inflight("t")
    thread = await b.threads.get("t")
    assert thread.status == "busy"


async def test_strategy_of_a_delayed_run_acts_at_its_admission(team: list[RunManager]) -> None:
    a, b = team
    old, agent = await running(b, "t")
    run_id, late = await delayed(a, seconds=SOON, strategy="interrupt")
    async with asyncio.timeout(20):
        await agent.stopped.wait()
    assert old.status is RunStatus.interrupted
    other, meanwhile = await running(b, "t", multitask_strategy="enqueue")

    async def is_due() -> bool:
        return not (await b.runs.explain(run_id)).run.delayed

    await wait_until(is_due, description="it is due")
    assert not meanwhile.cancelled.is_set(), "a run that was admitted during the delay is waited for"
    meanwhile.may_end.set()
    await started(late)
    assert other.status is RunStatus.success


async def test_delayed_run_does_not_reserve_the_slot(team: list[RunManager]) -> None:
    a, b = team
    run_id, _ = await delayed(a, seconds=3600, strategy="reject")
    assert await a.cancel(run_id)
    _, agent = await running(b, "t")
    agent.may_end.set()


async def test_queue_timeout_of_a_delayed_run_counts_from_the_end_of_its_delay(
    team: list[RunManager],
) -> None:
    a, b = team
    _, holder = await running(b, "t", multitask_strategy="enqueue")
    run_id, _ = await delayed(a, seconds=0.3, queue_timeout=0.2)
    began = asyncio.get_running_loop().time()
    with pytest.raises(RunFailed, match="queue"):
        await b.wait(run_id, timeout=10)
    assert asyncio.get_running_loop().time() - began >= 0.45
    holder.may_end.set()


async def test_idempotency_key_returns_the_delayed_run(team: list[RunManager]) -> None:
    a, b = team
    admission: dict[str, Any] = {"multitask_strategy": "enqueue", "idempotency_key": "k"}
    first = await a.create_or_reject("t", after_seconds=3600, **admission)
    again = await b.create_or_reject("t", after_seconds=3600, **admission)
    assert (again.run_id, again.already_admitted) == (first.run_id, True)
    with pytest.raises(IdempotencyConflict):
        await b.create_or_reject("t", **admission)


async def test_delay_of_zero_is_no_delay(alone: RunManager) -> None:
    _, agent = await running(alone, "t", after_seconds=0)
    agent.may_end.set()


@pytest.mark.parametrize("before", [True, False], ids=["before it is due", "after it is due"])
async def test_delayed_run_of_a_dead_worker_is_taken_over(tmp_path: Path, before: bool) -> None:
    first, second = Agent(), Agent(returns="done")
    async with (
        gateway(tmp_path, lease=SHORT, agent=second) as friend,
        gateway(tmp_path, lease=SHORT, agent=first) as home,
    ):
        _, holder = await running(friend, "t")
        run = await home.create_or_reject(
            "t", "agent", multitask_strategy="enqueue", after_seconds=2 if before else 0.05
        )
        home.launch(run)
        if not before:

            async def is_due() -> bool:
                return not (await friend.runs.explain(run.run_id)).run.delayed

            await wait_until(is_due, description="it is due")
        await hang(home)
        await wait_until(
            lambda: gone(friend, home.worker.epoch), description="its peers have declared it dead"
        )
        holder.may_end.set()
        await started(second)
        second.may_end.set()
        assert await friend.wait(run.run_id, timeout=10) == "done"
        assert not first.started.is_set()


async def test_delayed_run_survives_a_restart_of_all_workers(tmp_path: Path) -> None:
    seen = asyncio.Event()

    async def agent(ctx: RunContext) -> object:
        seen.set()
        return ctx.request.input

    async with gateway(tmp_path, agent=agent) as before:
        run = await before.create_or_reject(
            "t", "agent", multitask_strategy="enqueue", kwargs={"input": 5}, after_seconds=1.5
        )
        before.launch(run)
    assert not seen.is_set()
    async with gateway(tmp_path, agent=agent) as after:
        row = (await after.runs.explain(run.run_id)).run
        assert (row.status, row.delayed, row.home_epoch) == (RunStatus.pending, True, None)
        assert await after.wait(run.run_id, timeout=10) == 5


async def test_drain_does_not_wait_for_delayed_runs(tmp_path: Path) -> None:
    async with gateway(tmp_path, agent=Agent()) as friend, gateway(tmp_path, agent=Agent()) as home:
        run = await home.create_or_reject("t", "agent", multitask_strategy="enqueue", after_seconds=3600)
        home.launch(run)
        async with asyncio.timeout(30):
            await home.worker.drain(grace=60)
        assert (await friend.runs.explain(run.run_id)).run.delayed


async def test_delayed_run_that_is_not_portable_ends_with_its_worker(tmp_path: Path) -> None:
    async with gateway(tmp_path) as other:
        async with gateway(tmp_path) as home:
            run_id, agent = await delayed(home, seconds=3600)
        row = (await other.runs.explain(run_id)).run
        assert (row.status, row.cancel_cause) == (RunStatus.interrupted, "shutdown")
        assert not agent.started.is_set()
