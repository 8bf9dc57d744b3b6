"""`enqueue`: first in, first out, whichever workers the runs are on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from coordinator import QueueFull, RunContext, RunFailed, RunManager, Settings
from coordinator.servers.valkey import ValkeyServer
from stores.memory import MemoryStore
from tests.support.agents import launched, quick, running
from tests.support.inside import assembly_of
from tests.support.inside_stores import connection_of
from tests.support.teams import team_of
from tests.support.waiting import wait_until


async def test_queued_runs_of_two_workers_start_in_the_order_of_admission(team: list[RunManager]) -> None:
    """Reported failure 14: the order is that of the queue, not of ids."""
    started: list[str] = []

    async def note(ctx: RunContext) -> None:
        started.append(ctx.run.run_id)

    _, first = await running(team[0], "t")
    line: list[str] = []
    for at in range(6):
        run = await team[at % 2].create_or_reject("t", multitask_strategy="enqueue")
        team[at % 2].launch(run, note)
        line.append(run.run_id)
    first.may_end.set()
    for run_id in line:
        await team[0].wait(run_id, timeout=10)
    assert started == line


async def test_enqueued_run_replaces_none(team: list[RunManager]) -> None:
    """Reported failure 14."""
    a, b = team
    _, first = await running(a, "t")
    second, _ = await launched(b, "t", multitask_strategy="enqueue")
    third, _ = await launched(a, "t", multitask_strategy="enqueue")
    assert (await a.runs.explain(second.run_id)).position == 1
    assert (await b.runs.explain(third.run_id)).position == 2
    assert first.running


async def test_cancelled_queued_run_lets_the_next_one_start(team: list[RunManager]) -> None:
    a, b = team
    _, first = await running(a, "t")
    second, agent = await launched(b, "t", multitask_strategy="enqueue")
    third, last = await launched(a, "t", multitask_strategy="enqueue")
    assert await a.cancel(second.run_id, wait=5)
    assert (await a.runs.explain(third.run_id)).position == 1
    first.may_end.set()
    await last.started.wait()
    assert not agent.started.is_set()


async def test_cancel_of_a_queued_run_wakes_its_waiters_before_the_next_poll(
    tmp_path: Path, shared_valkey: ValkeyServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker that cancels publishes the end: the home of the run may be slow."""
    slow = {"tick": 3600.0, "short_tick": 3600.0}
    async with team_of(3, tmp_path, redis=shared_valkey.url, namespace=namespace, **slow) as (home, b, c):
        await running(home, "t")
        run = await home.create_or_reject("t", multitask_strategy="enqueue")
        home.launch(run, quick)

        def silent(*args: Any) -> None:
            del args

        monkeypatch.setattr(assembly_of(home).shared.notifier, "notify_thread", silent)
        reads, read = list[str](), c.store.row

        async def counted(run_id: str, **scope: Any) -> Any:
            row = await read(run_id, **scope)
            reads.append(run_id)
            return row

        monkeypatch.setattr(c.store, "row", counted)
        waiting = asyncio.create_task(assembly_of(c).runs.waiter.until_settled(run.run_id, 10))
        await wait_until(lambda: len(reads) == 2, description="it waits for a hint or its next poll")
        assert await b.cancel(run.run_id)
        assert await waiting


async def test_queued_runs_of_a_user_are_bounded_by_default() -> None:
    store = MemoryStore(shared=True)
    async with RunManager(store, settings=Settings(grace=0)) as manager:
        for thread, user in (("held", "alice"), ("t", "alice"), ("bobs", "bob")):
            await running(manager, thread, user_id=user)
        connection_of(store).execute(
            "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 10000)"
            " INSERT INTO runs (run_id, thread_id, user_id, status, home_epoch, seq, created_at, created_us,"
            " updated_at) SELECT 'w' || n, 'held', 'alice', 'pending', ?, n + 10, '', n, n FROM n",
            (manager.worker.epoch,),
        )
        with pytest.raises(QueueFull) as refused:
            await manager.create_or_reject("t", multitask_strategy="enqueue", user_id="alice")
        assert (refused.value.scope, refused.value.limit) == ("user", 10_000)
        await manager.create_or_reject("bobs", multitask_strategy="enqueue", user_id="bob")
        connection_of(store).execute("DELETE FROM runs WHERE run_id LIKE 'w%'")
        await manager.create_or_reject("t", multitask_strategy="enqueue", user_id="alice")


async def test_queue_of_a_thread_is_bounded(tmp_path: Path) -> None:
    async with team_of(1, tmp_path, max_waiting_per_thread=2) as (manager,):
        for _ in range(3):
            await manager.create_or_reject("t", multitask_strategy="enqueue")
        with pytest.raises(QueueFull):
            await manager.create_or_reject("t", multitask_strategy="enqueue")


async def test_queued_run_that_was_ended_in_the_store_ends_on_its_worker(team: list[RunManager]) -> None:
    """By a repair or a reaper: no cancel was delivered, and its task must not wait for ever."""
    a, b = team
    await running(a, "t")
    run, agent = await launched(a, "t", multitask_strategy="enqueue")
    await b.store.update_status(run.run_id, "error", error="repaired")
    with pytest.raises(RunFailed, match="repaired"):
        await a.wait(run.run_id, timeout=20)
    assert run.task is not None
    await asyncio.wait((run.task,))
    assert not agent.started.is_set()


async def test_run_behind_another_one_of_its_worker_makes_no_claim_of_its_own(
    alone: RunManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims: list[str] = []
    claim = alone.store.claim

    async def counted(thread_id: str, **options: Any) -> Any:
        claims.append(thread_id)
        return await claim(thread_id, **options)

    monkeypatch.setattr(alone.store, "claim", counted)
    _, first = await running(alone, "t")
    line = [await launched(alone, "t", multitask_strategy="enqueue") for _ in range(3)]
    await wait_until(lambda: bool(claims), description="the first of the queue has tried to claim its thread")
    first.may_end.set()
    for run, agent in line:
        await agent.started.wait()
        agent.may_end.set()
        await alone.wait(run.run_id, timeout=20)
    assert claims == ["t"]
