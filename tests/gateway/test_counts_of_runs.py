"""`runs_admitted_total` and `runs_settled_total`: over all workers, each run counts once in both,
whichever worker continues or ends it."""

from __future__ import annotations

from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from coordinator import RunFailed, RunManager, open_coordinator
from coordinator.gateway.long_lived_responses import Watchers
from coordinator.gateway.metrics import Metrics
from coordinator.settings import Settings
from tests.fundamentals.test_attempts import Walk, adopted, begun, pair
from tests.fundamentals.test_worker_death import hang
from tests.support.agents import Agent
from tests.support.inside import assembly_of
from tests.support.teams import QUICK
from tests.support.waiting import wait_until


class Counts:
    """The sums over these workers."""

    def __init__(self, *managers: RunManager) -> None:
        self._metrics = [Metrics(manager.worker, Watchers(1, 1)) for manager in managers]
        for manager, metrics in zip(managers, self._metrics, strict=True):
            manager.worker.observe(metrics.of_run)

    async def of(self, *names: str) -> dict[str, float]:
        """Returns the samples of these counters, with the values of their labels, that are not 0."""
        sums = Counter[str]()
        for metrics in self._metrics:
            for family in text_string_to_metric_families((await metrics.exposition()).decode()):
                for sample in family.samples:
                    name = sample.name.removeprefix("coordinator_runs_").removesuffix("_total")
                    if name in names and sample.value:
                        sums[" ".join([name, *sample.labels.values()])] += int(sample.value)
        return dict(sums)

    async def reach(self, **expected: int) -> None:
        """Waits for these sums, and for no others."""
        wanted = {name.replace("_", " "): float(value) for name, value in expected.items()}

        async def reached() -> bool:
            return await self.of("admitted", "settled", "recovered") == wanted

        await wait_until(reached, description=f"the counters are {wanted}")


async def test_run_that_another_worker_continues(tmp_path: Path) -> None:
    walk = Walk(waits_at=2)
    async with pair(tmp_path, walk) as (a, b):
        counts = Counts(a, b)
        run_id = await begun(a, walk, multitask_strategy="enqueue")
        await hang(a)
        await adopted(b, run_id, b)
        walk.go_on.set()
        await b.wait(run_id, timeout=10)
        await counts.reach(admitted_enqueue=1, settled_success=1)


async def test_run_that_a_sweep_ends(tmp_path: Path) -> None:
    walk = Walk(waits_at=2)
    async with pair(tmp_path, walk, retries=0) as (a, b):
        counts = Counts(a, b)
        run_id = await begun(a, walk, multitask_strategy="enqueue")
        await hang(a)
        with pytest.raises(RunFailed):
            await b.wait(run_id, timeout=10)
        await counts.reach(admitted_enqueue=1, settled_error=1, recovered=1)


async def test_cancelled_run_of_a_dead_worker_has_the_status_of_its_cancel(tmp_path: Path) -> None:
    walk = Walk(waits_at=2)
    async with pair(tmp_path, walk) as (a, b):
        counts = Counts(a, b)
        run_id = await begun(a, walk, multitask_strategy="enqueue")
        await hang(a)
        assert await b.cancel(run_id, action="rollback", wait=10)
        await counts.reach(admitted_enqueue=1, settled_interrupted=1, recovered=1)


async def opened(stack: AsyncExitStack, folder: Path, agent: Any, **settings: Any) -> RunManager:
    given = Settings(store=f"sqlite:///{folder / 'runs.db'}", **{**QUICK, **settings})
    return await stack.enter_async_context(open_coordinator(settings=given, assistants={"agent": agent}))


async def test_dispatched_run_that_another_worker_executes(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        agent = Agent(returns="done")
        agent.may_end.set()
        front = await opened(stack, tmp_path, agent, admit_only=True)
        counts = Counts(front, await opened(stack, tmp_path, agent))
        run = await front.create_or_reject("t", "agent", multitask_strategy="enqueue")
        assert await front.wait(run.run_id, timeout=20) == "done"
        await counts.reach(admitted_enqueue=1, settled_success=1)


async def test_waiting_runs_without_a_worker(tmp_path: Path) -> None:
    """They wait in the queue of no worker, so the worker that decides over them counts them."""
    async with AsyncExitStack() as stack:
        front = await opened(stack, tmp_path, Agent(), admit_only=True)
        other = await opened(stack, tmp_path, Agent(), admit_only=True)
        counts = Counts(front, other)
        first = await front.create_or_reject("t", "agent", multitask_strategy="enqueue")
        await front.create_or_reject("t", "agent", multitask_strategy="interrupt", parent_run_id=first.run_id)
        await counts.reach(admitted_enqueue=1, admitted_interrupt=1, settled_interrupted=1)
        parent = await front.create_or_reject("p", "agent", multitask_strategy="enqueue")
        await front.create_or_reject("c", "agent", multitask_strategy="enqueue", parent_run_id=parent.run_id)
        assert await other.cancel(parent.run_id)
        assert await other.cancel(parent.run_id), "repeated"
        await counts.reach(admitted_enqueue=3, admitted_interrupt=1, settled_interrupted=3)


async def test_waiting_run_is_counted_by_its_worker_alone(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        a, b = [await opened(stack, tmp_path, Agent()) for _ in range(2)]
        counts = Counts(a, b)
        holder = await a.create_or_reject("t", "agent", multitask_strategy="enqueue")
        a.launch(holder)
        waiting = await a.create_or_reject("t", "agent", multitask_strategy="enqueue")
        assert await b.cancel(waiting.run_id, wait=10)
        assert await b.cancel(holder.run_id, wait=10)
        await counts.reach(admitted_enqueue=2, settled_interrupted=2)


async def test_runs_of_an_epoch_that_its_worker_gives_up(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        peer, fenced = [await opened(stack, tmp_path, Agent()) for _ in range(2)]
        counts = Counts(peer, fenced)
        run = await fenced.create_or_reject("t", multitask_strategy="enqueue")
        assembly_of(fenced).shared.worker.fenced(fenced.worker.epoch, "its lease is over")
        await peer.ended(run.run_id, timeout=10)
        await counts.reach(admitted_enqueue=1, settled_error=1, recovered=1)
