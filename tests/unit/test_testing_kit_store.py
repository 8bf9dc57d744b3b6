"""What a cluster of `coordinator.testing` keeps: as workers on one file of SQLite do."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator import RunContext, RunManager, RunNotFound, testing
from coordinator.event_log import Event

pytestmark = pytest.mark.usefixtures("no_task_left")


async def emits(ctx: RunContext) -> dict[str, int]:
    for number in range(3):
        await ctx.emit("custom", number)
    return {"n": 3}


async def seen(worker: RunManager, run_id: str) -> list[Any]:
    return [item.data async for item in worker.follow(run_id) if isinstance(item, Event)]


async def test_settled_run_can_be_read_until_keep_runs() -> None:
    async with testing.cluster(workers=2, assistants={"emits": emits}) as cluster:
        one, other = cluster.workers
        run = await one.create_or_reject("t", "emits", idempotency_key="k")
        one.launch(run)
        await cluster.advance(days=29)
        for worker in (one, other):
            assert (record := await worker.get(run.run_id)) is not None
            assert record.status == "success"
            assert await worker.wait(run.run_id) == {"n": 3}
            assert [run.run_id for run in await worker.list_by_thread("t")] == [run.run_id]
            again = await worker.create_or_reject("t", "emits", idempotency_key="k")
            assert (again.run_id, again.already_admitted) == (run.run_id, True)
        assert await cluster.store.get(run.run_id) is not None


async def test_events_are_kept_for_event_log_ttl() -> None:
    async with testing.cluster(workers=2, assistants={"emits": emits}) as cluster:
        run = await cluster.workers[0].create_or_reject("t", "emits")
        cluster.workers[0].launch(run)
        await cluster.advance(minutes=14)
        for worker in cluster.workers:
            assert await seen(worker, run.run_id) == [0, 1, 2]
        await cluster.advance(minutes=2)
        for worker in cluster.workers:
            assert await seen(worker, run.run_id) == []


async def test_settled_run_is_pruned_after_keep_runs() -> None:
    async with testing.cluster(workers=2, assistants={"emits": emits}, keep_runs=86_400) as cluster:
        one, other = cluster.workers
        run = await one.create_or_reject("t", "emits", idempotency_key="k")
        one.launch(run)
        await cluster.advance(hours=1)
        last = await other.create_or_reject("t", "emits")  # the last run of a thread is kept
        other.launch(last)
        await cluster.advance(days=3)
        assert await cluster.store.get(run.run_id) is None
        for worker in (one, other):
            assert await worker.get(run.run_id) is None
            assert [run.run_id for run in await worker.list_by_thread("t")] == [last.run_id]
        again = await other.create_or_reject("t", "emits", idempotency_key="k")
        assert not again.already_admitted
        assert again.run_id != run.run_id


async def test_memory_for_finished_records_does_not_bound_what_is_kept() -> None:
    async with testing.cluster(assistants={"emits": emits}, keep_finished_max=0) as cluster:
        (worker,) = cluster.workers
        runs = [await worker.create_or_reject(f"t{number}", "emits") for number in range(5)]
        for run in runs:
            worker.launch(run)
        await cluster.advance(minutes=1)
        assert [await worker.wait(run.run_id) for run in runs] == [{"n": 3}] * 5
        with pytest.raises(RunNotFound):
            await worker.wait("no such run")
