"""Limits on running runs: a worker executes so many at a time; what waits holds its thread, is served in an
order that is fair to users, and can be cancelled like any other run."""

from __future__ import annotations

import asyncio

import pytest

from coordinator import RunContext, RunFailed, RunManager, RunRecord, assistant
from tests.fundamentals.test_worker_death import SHORT, hang
from tests.support.agents import launched, running
from tests.support.teams import on_every_store
from tests.support.waiting import wait_until

pytestmark = pytest.mark.settings(max_running=1)


@on_every_store
async def test_further_run_waits_for_a_place_and_every_worker_knows_its_position(
    team: list[RunManager],
) -> None:
    a, b = team
    _, first = await running(a, "t1")
    second, agent = await launched(a, "t2")
    third, _ = await launched(a, "t3")
    for worker in team:
        explanation = await worker.runs.explain(third.run_id)
        assert (explanation.phase, explanation.position) == ("pending", 2)
    assert a.worker.waiting_for_place == 2
    await running(b, "t4")  # the limit is that of one worker
    first.may_end.set()
    await agent.started.wait()
    assert (await b.runs.explain(second.run_id)).position is None
    assert (await b.runs.explain(third.run_id)).position == 1


async def test_run_that_waits_for_a_place_is_cancelled_by_any_worker_without_having_started(
    team: list[RunManager],
) -> None:
    a, b = team
    await running(a, "t1")
    waiting, agent = await launched(a, "t2")
    assert await b.cancel(waiting.run_id, wait=5)
    assert not agent.started.is_set()
    assert not await b.has_inflight("t2")
    assert a.worker.waiting_for_place == 0


async def test_run_that_waits_for_a_place_holds_its_thread(team: list[RunManager]) -> None:
    """It is next on its thread: a strategy treats it like a run that executes."""
    a, b = team
    _, first = await running(a, "t1")
    waiting, agent = await launched(a, "t2")
    replacing, other = await launched(b, "t2", multitask_strategy="interrupt")
    await other.started.wait()
    assert (await b.runs.get(waiting.run_id)).status == "interrupted"
    assert not agent.started.is_set()
    other.may_end.set()
    await b.wait(replacing.run_id)
    first.may_end.set()


async def test_users_are_served_in_turn(team: list[RunManager]) -> None:
    a, _ = team
    _, first = await running(a, "t")
    started: list[str | None] = []

    async def note(ctx: RunContext) -> None:
        started.append(ctx.run.user_id)

    runs: list[RunRecord] = []
    for number, user in enumerate(["anna", "anna", "anna", "bert"]):
        run = await a.create_or_reject(f"t{number}", user_id=user)
        a.launch(run, note)
        runs.append(run)
    first.may_end.set()
    for run in runs:
        await a.wait(run.run_id, timeout=10)
    assert started == ["anna", "bert", "anna", "anna"]


@pytest.mark.settings(max_running=None, max_running_per_user=1)
async def test_user_at_the_limit_delays_no_other_user(team: list[RunManager]) -> None:
    a, _ = team
    await running(a, "t1", user_id="anna")
    second, agent = await launched(a, "t2", user_id="anna")
    await running(a, "t3", user_id="bert")
    assert not agent.started.is_set()
    assert (await a.runs.explain(second.run_id)).position == 1


async def test_queue_limit_ends_a_run_that_waits_for_a_place(team: list[RunManager]) -> None:
    a, b = team
    await running(a, "t1")
    waiting, agent = await launched(a, "t2", queue_timeout=0.05)
    with pytest.raises(RunFailed, match="timeout"):
        await b.wait(waiting.run_id, timeout=20)
    row = await b.runs.get(waiting.run_id)
    assert (row.status, row.cancel_cause) == ("timeout", "queue_timeout")
    assert not agent.started.is_set()


async def test_child_uses_the_place_of_its_parent(team: list[RunManager]) -> None:
    """A parent that waits for its child would wait for ever otherwise."""
    a, _ = team
    parent, agent = await running(a, "t1")
    child, inner = await launched(a, "t2", parent_run_id=parent.run_id)
    await inner.started.wait()
    inner.may_end.set()
    await a.wait(child.run_id)
    agent.may_end.set()


async def test_place_is_free_again_after_a_failure(team: list[RunManager]) -> None:
    a, _ = team

    async def fails(ctx: RunContext) -> None:
        del ctx
        raise ValueError("no")

    for number in range(3):
        run = await a.create_or_reject(f"t{number}")
        a.launch(run, fails)
        with pytest.raises(RunFailed, match="no"):
            await a.wait(run.run_id, timeout=10)


async def test_queued_run_that_gets_its_thread_waits_for_a_place_as_well(team: list[RunManager]) -> None:
    a, _ = team
    _, first = await running(a, "t1")
    head, _ = await launched(a, "t2")
    queued, agent = await launched(a, "t2", multitask_strategy="enqueue")
    assert await a.cancel(head.run_id, wait=5)
    await wait_until(
        lambda: a.worker.waiting_for_place == 1, description="the queued run has its thread and waits"
    )
    assert not agent.started.is_set()
    first.may_end.set()
    await agent.started.wait()
    agent.may_end.set()
    await a.wait(queued.run_id)


@assistant(name="waits")
async def waits(ctx: RunContext) -> int:
    """Ends at once, unless its input is "held"."""
    if ctx.request.input == "held":
        await asyncio.Event().wait()
    return ctx.attempt


@pytest.mark.assistants(waits=waits)
async def test_drain_hands_over_what_waits_for_a_place_before_it_has_started(team: list[RunManager]) -> None:
    a, b = team
    held = await a.create_or_reject("t1", "waits", kwargs={"input": "held"})
    a.launch(held)
    await wait_until(lambda: held.status == "running", description="the place is taken")
    waiting = await a.create_or_reject("t2", "waits")
    a.launch(waiting)
    await wait_until(lambda: a.worker.waiting_for_place == 1, description="it waits")
    drain = asyncio.create_task(a.worker.drain(grace=30))
    assert await b.wait(waiting.run_id, timeout=20) == 1, "it had not begun"
    history = [step.what for step in (await b.runs.explain(waiting.run_id)).transitions]
    assert history == ["admitted", "handed over", "adopted", "started", "finished"]
    assert await b.cancel(held.run_id, wait=10)
    await drain


@on_every_store
@pytest.mark.settings(max_running=1, **SHORT)
@pytest.mark.assistants(waits=waits)
async def test_run_that_waits_for_a_place_outlives_its_worker(team: list[RunManager]) -> None:
    """Reported: it ended as an error of its worker although nothing of it had been executed, because its
    assistant has no retries."""
    a, b = team
    held = await a.create_or_reject("t1", "waits", kwargs={"input": "held"})
    a.launch(held)
    await wait_until(lambda: held.status == "running", description="the place is taken")
    waiting = await a.create_or_reject("t2", "waits")
    a.launch(waiting)
    await wait_until(lambda: a.worker.waiting_for_place == 1, description="it waits")
    await hang(a)
    assert await b.wait(waiting.run_id, timeout=20) == 1, "it had not begun"
    with pytest.raises(RunFailed, match="dead or lost its lease"):
        await b.wait(held.run_id, timeout=20)
