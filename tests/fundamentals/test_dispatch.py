"""A worker that only admits: others execute its runs, and it refuses what they could not execute."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from coordinator import (
    InvalidArgument,
    Phase,
    RunContext,
    RunManager,
    RunRecord,
    RunStatus,
    Settings,
    open_coordinator,
)
from tests.support.agents import Agent
from tests.support.held import hold_answers
from tests.support.inside import assembly_of
from tests.support.postgres import Database
from tests.support.teams import QUICK
from tests.support.waiting import wait_until


class Deployment:
    """`front` only admits; `workers` execute at most one run each."""

    def __init__(self, agent: Agent, front: RunManager, workers: list[RunManager]) -> None:
        self.agent, self.front, self.workers = agent, front, workers


class Opener:
    """Opens workers on one store; they end with the test."""

    def __init__(self, stack: AsyncExitStack, where: dict[str, Any], agent: Agent) -> None:
        self._stack, self._where, self.agent = stack, where, agent

    async def worker(self, **settings: Any) -> RunManager:
        given = Settings(**{**self._where, **settings})
        opened = open_coordinator(settings=given, assistants={"agent": self.agent})
        return await self._stack.enter_async_context(opened)


@pytest.fixture(params=["sqlite", "postgres"])
async def opener(
    request: pytest.FixtureRequest, tmp_path: Path, shared_postgres: Database
) -> AsyncGenerator[Opener]:
    async with AsyncExitStack() as stack:
        where: dict[str, Any] = {**QUICK, "store": f"sqlite:///{tmp_path / 'runs.db'}"}
        if request.param == "postgres":
            url, schema = await stack.enter_async_context(shared_postgres.worker())
            where |= {"store": url, "postgres_schema": schema}
        yield Opener(stack, where, Agent(returns="done"))


@pytest.fixture
async def deployment(opener: Opener) -> Deployment:
    front = await opener.worker(admit_only=True)
    return Deployment(opener.agent, front, [await opener.worker(max_running=1) for _ in range(2)])


async def test_another_worker_executes_the_run(deployment: Deployment) -> None:
    front, agent = deployment.front, deployment.agent
    run = await front.create_or_reject("t", "agent", user_id="u", kwargs={"input": 1})
    assert (run.status, run.store_only) == (RunStatus.pending, True)
    async with asyncio.timeout(20):
        await agent.started.wait()
    assert agent.ctx.request.input == 1
    assert await front.has_inflight("t")
    agent.may_end.set()
    assert await front.wait(run.run_id, timeout=20) == "done"
    row = await front.runs.get(run.run_id)
    assert row.owner_epoch in {each.worker.epoch for each in deployment.workers}
    assert [step.what for step in (await front.runs.explain(run.run_id)).transitions] == [
        "queued",
        "claimed",
        "started",
        "finished",
    ]
    assert {each.epoch: each.admits_only for each in await front.worker.fleet()} == {
        front.worker.epoch: True,
        **{each.worker.epoch: False for each in deployment.workers},
    }


async def test_what_no_other_worker_could_execute_is_refused(deployment: Deployment) -> None:
    front = deployment.front

    async def agent(ctx: RunContext) -> None: ...

    with pytest.raises(InvalidArgument, match="only admits"):
        await front.create_or_reject("t", "unknown")
    with pytest.raises(InvalidArgument, match="only admits"):
        await front.create_or_reject("t")
    with pytest.raises(InvalidArgument, match="only admits"):
        await front.create("t", "agent")
    assert not await front.has_inflight("t")
    run = await front.create_or_reject("t", "agent")
    with pytest.raises(InvalidArgument, match="executed by another worker"):
        front.launch(run, agent)
    assert await front.cancel(run.run_id, wait=10)


async def test_run_whose_caller_is_cancelled_during_its_admission_is_cancelled(
    deployment: Deployment,
) -> None:
    front = deployment.front
    admitting = hold_answers(front.store, "admit")
    call = asyncio.create_task(front.create_or_reject("t", "agent"))
    await admitting.reached.wait()
    async with asyncio.timeout(20):
        await deployment.agent.started.wait()  # another worker has it, before the admission is answered
    call.cancel()
    admitting.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await call
    (row,) = await front.runs.recent()

    async def settled() -> bool:
        return (await front.runs.get(row.run_id)).settled

    await wait_until(settled, description="the run is cancelled on the other worker")
    assert deployment.agent.cancelled.is_set()


async def test_worker_takes_no_run_without_a_place_for_it(deployment: Deployment) -> None:
    """However many hints and ticks claim at the same time."""
    front = deployment.front
    runs = await asyncio.gather(*(front.create_or_reject(f"t{number}", "agent") for number in range(20)))

    async def held() -> int:
        return sum([(await front.runs.get(run.run_id)).holds_thread for run in runs])

    async def all_hold() -> bool:
        for worker in deployment.workers:
            await asyncio.gather(*(assembly_of(worker).shared.queue.claim(f"t{at}") for at in range(20)))
        number = await held()
        assert number <= 2
        return number == 2

    await wait_until(all_hold, description="each worker has a run")
    deployment.agent.may_end.set()
    results = await asyncio.gather(*(front.wait(run.run_id, timeout=20) for run in runs))
    assert results == ["done"] * len(runs)


async def phases(front: RunManager, runs: Sequence[RunRecord]) -> list[Phase]:
    return [(await front.runs.get(run.run_id)).phase for run in runs]


async def dispatch(front: RunManager, *users: str | None) -> list[RunRecord]:
    """A run for each of these users, each on a thread of its own, admitted in this order."""
    before = len(await front.runs.recent())
    return [
        await front.create_or_reject(f"t{number}", "agent", user_id=user)
        for number, user in enumerate(users, start=before)
    ]


async def test_run_of_a_user_at_its_limit_takes_no_place_while_it_waits(opener: Opener) -> None:
    front = await opener.worker(admit_only=True)
    runs = await dispatch(front, "a", "a", "a", "b")
    worker = await opener.worker(max_running=2, max_running_per_user=1)
    expected = [Phase.running, Phase.waiting, Phase.waiting, Phase.running]

    async def as_expected() -> bool:
        return await phases(front, runs) == expected

    await wait_until(as_expected, description="each user has one run, and the others wait")
    await assembly_of(worker).watch.tick()
    assert await phases(front, runs) == expected, "no further tick takes what it cannot execute"
    opener.agent.may_end.set()
    assert await asyncio.gather(*(front.wait(run.run_id, timeout=20) for run in runs)) == ["done"] * 4
    started = [(await front.runs.get(run.run_id)).started_at or 0 for run in runs[:3]]
    assert started == sorted(started), "the oldest one first"


async def test_users_of_dispatched_runs_take_turns(opener: Opener) -> None:
    front = await opener.worker(admit_only=True)
    runs = await dispatch(front, *["a"] * 6, "b", "c", None)
    opener.agent.may_end.set()
    await opener.worker(max_running=1)
    await asyncio.gather(*(front.wait(run.run_id, timeout=20) for run in runs))
    rows = [await front.runs.get(run.run_id) for run in runs]
    rows.sort(key=lambda row: row.started_at or 0)
    assert [row.user_id for row in rows[4:]] == ["a"] * 5, "after one run of each user"


async def test_child_needs_no_place_of_the_worker_that_executes_its_parent(opener: Opener) -> None:
    """The parent may wait for it, on the only place that there is."""
    front = await opener.worker(admit_only=True)
    await opener.worker(max_running=1)
    (parent,) = await dispatch(front, "a")
    await opener.agent.started.wait()
    other = await front.create_or_reject("other", "agent", user_id="a")
    children = [
        await front.create_or_reject(f"child{at}", "agent", user_id="a", parent_run_id=parent.run_id)
        for at in range(3)
    ]
    expected = [Phase.running] * 4 + [Phase.waiting]

    async def as_expected() -> bool:
        return await phases(front, [parent, *children, other]) == expected

    await wait_until(as_expected, description="the children are executed beside their parent")
    opener.agent.may_end.set()
    await asyncio.gather(*(front.wait(run.run_id, timeout=20) for run in (parent, *children, other)))


async def test_runs_that_no_worker_executes_are_reported(
    opener: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    front = await opener.worker(admit_only=True)
    run, _ = await dispatch(front, "a", "b")
    behind = await front.create_or_reject("t0", "agent", multitask_strategy="enqueue")
    why = "3 runs wait since .* no live worker executes assistant 'agent'"

    async def reported() -> bool:
        (reason,) = (await front.worker.health()).unclaimed_runs or ("",)
        return re.search(why, reason) is not None

    await wait_until(reported, description="the front reports the runs")
    await assembly_of(front).unclaimed.examine()
    logged = [record for record in caplog.records if record.name == "coordinator.workers.unclaimed"]
    assert [record.levelname for record in logged] == ["WARNING"], "once, although it was examined again"
    assert "since" in logged[0].getMessage()
    explained = (await front.runs.explain(run.run_id)).waits_for
    assert explained is not None
    assert "no live worker executes assistant 'agent'" in explained
    assert "admit_only" in explained, "what can be done"
    explained = (await front.runs.explain(behind.run_id)).waits_for
    assert explained is not None
    assert run.run_id in explained

    await opener.worker(max_running=1)
    async with asyncio.timeout(20):
        await opener.agent.started.wait()

    async def over() -> bool:
        return not (await front.worker.health()).unclaimed_runs

    await wait_until(over, description="the front reports that a worker executes them")
    assert "No run waits for a worker that executes assistant 'agent' any more" in caplog.text
    waits = [(await front.runs.explain(one.run_id)).waits_for for one in (run, behind)]
    waits += [(await front.runs.explain(one.run_id)).waits_for for one in await front.list_by_thread("t1")]
    assert waits == [None, None, "a worker that has a place for it"]
    opener.agent.may_end.set()
    assert await front.wait(behind.run_id, timeout=20) == "done"


async def test_operations_need_no_other_worker(deployment: Deployment) -> None:
    front = deployment.front
    await front.threads.create("t")
    await front.threads.replace_values("t", {"n": 1})
    await front.threads.copy("t", "u")
    assert (await front.threads.get("u")).values == {"n": 1}


async def test_worker_whose_runs_no_other_could_execute_does_not_start() -> None:
    with pytest.raises(InvalidArgument, match="no other worker"):
        RunManager(settings=Settings(admit_only=True))


async def test_worker_whose_runs_no_client_could_follow_does_not_start(tmp_path: Path) -> None:
    given = Settings(store=f"sqlite:///{tmp_path / 'runs.db'}", admit_only=True, event_log="memory")
    with pytest.raises(InvalidArgument, match="event_log"):
        async with open_coordinator(settings=given):
            pass
