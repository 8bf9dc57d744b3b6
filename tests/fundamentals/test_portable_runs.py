"""A run whose assistant is registered by name is portable: while it is queued, any worker with that name may
run it. A started run is never restarted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from coordinator import (
    InvalidArgument,
    LeaseLost,
    RunContext,
    RunFailed,
    RunManager,
    RunRecord,
    RunStatus,
    Settings,
    StoreUnavailable,
    open_coordinator,
)
from coordinator.notifier import Signal
from tests.fundamentals.test_worker_death import SHORT, gone, hang
from tests.support.agents import Agent, running
from tests.support.held import Held, called, hold_answers, hold_calls
from tests.support.inside import assembly_of, jobs_of
from tests.support.inside_stores import write_of
from tests.support.teams import QUICK
from tests.support.waiting import wait_until

LONG: dict[str, Any] = {"lease_ttl": 30.0}


@asynccontextmanager
async def gateway(
    folder: Path, *, lease: dict[str, Any] = LONG, **assistants: Any
) -> AsyncGenerator[RunManager]:
    """A worker whose lease outlasts the pauses of a busy machine, except in tests of its death."""
    settings = Settings(store=f"sqlite:///{folder / 'runs.db'}", **{**QUICK, **lease})
    async with open_coordinator(settings=settings, assistants=assistants) as manager:
        yield manager


@pytest.fixture
async def stack() -> AsyncGenerator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def test_launch_without_agent_uses_the_registered_assistant(tmp_path: Path) -> None:
    async def poet(ctx: RunContext) -> str:
        return f"a poem about {ctx.request.input}"

    async with gateway(tmp_path, poet=poet) as manager:
        run = await manager.create_or_reject("t", "poet", kwargs={"input": "rain"})
        manager.launch(run)
        assert await manager.wait(run.run_id, timeout=10) == "a poem about rain"
        unknown = await manager.create_or_reject("t", "painter")
        with pytest.raises(InvalidArgument, match="painter"):
            manager.launch(unknown)
        portable = {row.run_id: row.portable for row in await manager.runs.recent()}
        assert portable == {run.run_id: True, unknown.run_id: False}


async def test_queued_run_of_a_dead_worker_is_taken_over_by_one_with_the_assistant(
    tmp_path: Path, stack: AsyncExitStack
) -> None:
    agents = {"home": Agent(), "stranger": Agent(), "friend": Agent(returns="done")}
    home = await stack.enter_async_context(gateway(tmp_path, lease=SHORT, agent=agents["home"]))
    stranger = await stack.enter_async_context(gateway(tmp_path, lease=SHORT, other=agents["stranger"]))
    friend = await stack.enter_async_context(gateway(tmp_path, lease=SHORT, agent=agents["friend"]))
    _, holder = await running(stranger, "t")
    run = await home.create_or_reject("t", "agent", multitask_strategy="enqueue", kwargs={"input": 1})
    home.launch(run)
    behind, last = await launched_behind(stranger, "t")
    await hang(home)
    await wait_until(lambda: gone(stranger, home.worker.epoch), description="its peers have declared it dead")
    holder.may_end.set()
    async with asyncio.timeout(10):
        await agents["friend"].started.wait()
    assert agents["friend"].ctx.request.input == 1
    assert not last.started.is_set(), "first in, first out: it keeps its place"
    agents["friend"].may_end.set()
    assert await stranger.wait(run.run_id, timeout=10) == "done"
    last.may_end.set()
    await stranger.wait(behind, timeout=10)
    row = await stranger.store.row(run.run_id)
    assert row is not None
    assert (row.status, row.owner_epoch, row.attempt) == (RunStatus.success, friend.worker.epoch, 1)
    assert not agents["home"].started.is_set()


@pytest.mark.parametrize("first", ["claim", "admission"])
async def test_run_claimed_in_a_new_epoch_before_its_admission_returns_is_executed(
    tmp_path: Path, first: str
) -> None:
    """The worker was fenced while the answer to the admission was on its way, registered again, and got the
    thread for the run, which has no home any more. If the answer to the admission comes `first`, its caller
    gets an error, and the claim takes the run over."""
    agent = Agent(returns="done")
    async with gateway(tmp_path, agent=agent) as manager:
        await running(manager, "t")
        admission = hold_answers(manager.store, "admit")
        claim = hold_answers(manager.store, "claim", lambda claimed: claimed is not None)
        admitting = asyncio.create_task(
            manager.create_or_reject("t", "agent", multitask_strategy="enqueue", kwargs={"input": 1})
        )
        await admission.reached.wait()
        worker = assembly_of(manager).shared.worker
        worker.fenced(worker.epoch, "a test")
        await claim.reached.wait()
        if first == "claim":
            applied = called(assembly_of(manager).shared.registry, "claimed")
            claim.go_on.set()
            await applied.wait()
            admission.go_on.set()
            manager.launch(await admitting)
        else:
            admission.go_on.set()
            with pytest.raises(LeaseLost):
                await admitting
            claim.go_on.set()
        async with asyncio.timeout(10):
            await agent.started.wait()
        (run_id,) = [row.run_id for row in await manager.runs.recent(thread_id="t") if row.holds_thread]
        agent.may_end.set()
        assert await manager.wait(run_id, timeout=10) == "done"


async def started_in_the_next_epoch(manager: RunManager, agent: Agent) -> None:
    """Fences the worker, and returns when it executes the agent in the epoch that follows."""
    worker = assembly_of(manager).shared.worker
    worker.fenced(worker.epoch, "a test")
    async with asyncio.timeout(10):
        await agent.started.wait()


async def test_run_taken_over_in_a_new_epoch_before_its_admission_returns_can_be_cancelled(
    tmp_path: Path,
) -> None:
    """Its caller gets an error, as for every admission in an epoch that has ended; the run continues."""
    agent = Agent()
    async with gateway(tmp_path, agent=agent) as manager:
        held = hold_answers(manager.store, "admit")
        admitting = asyncio.create_task(manager.create_or_reject("t", "agent", kwargs={"input": 1}))
        await held.reached.wait()
        await started_in_the_next_epoch(manager, agent)
        held.go_on.set()
        with pytest.raises(LeaseLost):
            await admitting
        (row,) = await manager.runs.recent(thread_id="t")
        assert await manager.cancel(row.run_id)
        async with asyncio.timeout(10):
            await agent.cancelled.wait()
        assert (await manager.runs.receipt(row.run_id)).status is RunStatus.interrupted


async def home_and_heir(
    stack: AsyncExitStack, folder: Path, agent: Agent
) -> tuple[RunManager, RunManager, Agent, RunRecord]:
    """Returns two workers, the agent that holds the thread on the second, and a run of the first that waits
    for it. The second would execute it with `agent`."""
    home = await stack.enter_async_context(gateway(folder, agent=Agent()))
    heir = await stack.enter_async_context(gateway(folder, agent=agent))
    _, holder = await running(heir, "t")
    run = await home.create_or_reject("t", "agent", multitask_strategy="enqueue", kwargs={"input": 1})
    return home, heir, holder, run


async def test_run_claimed_again_while_it_is_taken_over_is_executed_once(
    tmp_path: Path, stack: AsyncExitStack
) -> None:
    """The worker was fenced while it read the row of a run that it had claimed, and got it again in its next
    epoch."""
    agent = Agent(returns="done")
    home, heir, holder, run = await home_and_heir(stack, tmp_path, agent)
    held = hold_calls(heir.store, "row")
    await home.worker.drain(grace=0)
    holder.may_end.set()
    await held.reached.wait()
    worker = assembly_of(heir).shared.worker
    fenced = worker.epoch
    worker.fenced(fenced, "a test")

    async def again() -> bool:
        rows = await heir.runs.recent(thread_id="t")
        return any(row.holds_thread and row.owner_epoch == worker.epoch != fenced for row in rows)

    await wait_until(again, description="the next epoch holds the thread")
    held.go_on.set()
    async with asyncio.timeout(10):
        await agent.started.wait()
    agent.may_end.set()
    assert await heir.wait(run.run_id, timeout=10) == "done"
    await assembly_of(heir).shared.registry.all_admitted()


async def test_takeover_that_is_late_replaces_no_later_one(tmp_path: Path, stack: AsyncExitStack) -> None:
    """A read of the first one takes until the worker executes the run in its next epoch."""
    agent = Agent()
    home, heir, holder, run = await home_and_heir(stack, tmp_path, agent)
    store: Any = heir.store
    read, late = store.thread, Held()

    async def late_once(thread_id: str) -> Any:
        if not late.reached.is_set():
            await late.stand()
        return await read(thread_id)

    store.thread = late_once
    await home.worker.drain(grace=0)
    holder.may_end.set()
    await late.reached.wait()
    await started_in_the_next_epoch(heir, agent)
    late.go_on.set()
    await assembly_of(heir).shared.registry.all_admitted()
    assert await heir.cancel(run.run_id)
    async with asyncio.timeout(10):
        await agent.cancelled.wait()


async def launched_behind(manager: RunManager, thread: str) -> tuple[str, Agent]:
    agent = Agent()
    record = await manager.create_or_reject(thread, multitask_strategy="enqueue")
    manager.launch(record, agent)
    return record.run_id, agent


async def test_run_without_a_home_is_taken_over_by_a_tick(tmp_path: Path) -> None:
    """A leaving worker handed it over: its next home is any worker with the assistant."""
    agent = Agent(returns=1)
    async with gateway(tmp_path) as leaver, gateway(tmp_path, agent=agent) as heir:
        _, holder = await running(leaver, "t")
        run = await heir.create_or_reject("t", "agent", multitask_strategy="enqueue")
        await hand_over(heir, run)
        holder.may_end.set()
        async with asyncio.timeout(10):
            await agent.started.wait()
        agent.may_end.set()
        assert await leaver.wait(run.run_id, timeout=10) == 1


async def test_wait_at_the_old_home_returns_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run was taken over during the wait."""
    agent, over = Agent(returns=1), asyncio.Event()
    async with gateway(tmp_path, agent=Agent()) as home, gateway(tmp_path, agent=agent) as heir:
        _, holder = await running(heir, "t")
        run = await home.create_or_reject("t", "agent", multitask_strategy="enqueue")
        home.launch(run)
        store: Any = home.store

        def late(name: str) -> Any:
            method = getattr(store, name)

            async def called(*args: Any) -> Any:
                await over.wait()
                return await method(*args)

            return called

        for name in ("tick", "standing", "claim"):
            monkeypatch.setattr(store, name, late(name))
        waiting = asyncio.create_task(home.wait(run.run_id, timeout=20))
        await write_of(heir.store)(handed_over, run.run_id)
        holder.may_end.set()
        async with asyncio.timeout(10):
            await agent.started.wait()
        agent.may_end.set()
        assert await heir.wait(run.run_id, timeout=10) == 1
        over.set()
        assert await waiting == 1


@asynccontextmanager
async def executed_elsewhere(
    folder: Path, agent: Agent, patch: pytest.MonkeyPatch
) -> AsyncGenerator[tuple[RunManager, RunManager, RunRecord]]:
    """Yields the old home of a run, its heir and the run. The old home's reads of the run stay unanswered."""
    released = asyncio.Event()

    async def never(*args: Any) -> Any:
        await released.wait()
        raise StoreUnavailable("it is away")

    async with gateway(folder, agent=Agent()) as home, gateway(folder, agent=agent) as heir:
        _, holder = await running(heir, "t")
        run = await home.create_or_reject("t", "agent", multitask_strategy="enqueue")
        home.launch(run)
        for name in ("tick", "standing", "claim"):
            patch.setattr(home.store, name, never)
        await write_of(heir.store)(handed_over, run.run_id)
        holder.may_end.set()
        async with asyncio.timeout(10):
            await agent.started.wait()
        yield home, heir, run
        agent.may_end.set()
        released.set()


async def test_end_of_the_old_homes_task_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old home does not know yet that another worker executes the run when the task that waits there
    ends."""
    agent = Agent(returns=1)
    async with executed_elsewhere(tmp_path, agent, monkeypatch) as (home, _, run):
        waiting = asyncio.create_task(home.wait(run.run_id, timeout=20))
        assert run.task is not None
        run.task.cancel()
        await asyncio.wait([run.task])
        entry = assembly_of(home).shared.registry.entry(run.run_id)
        await wait_until(lambda: entry is None or entry.settled.is_set(), description="it is over at home")
        assert agent.running
        agent.may_end.set()
        assert await waiting == 1


async def test_shutdown_of_the_old_home_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = Agent(returns=1)
    async with executed_elsewhere(tmp_path, agent, monkeypatch) as (home, heir, run):
        await home.worker.drain(grace=0)
        assert agent.running
        agent.may_end.set()
        assert await heir.wait(run.run_id, timeout=10) == 1


async def test_cancel_at_the_old_home_reaches_the_new_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, hinted = Agent(), list[int]()
    async with executed_elsewhere(tmp_path, agent, monkeypatch) as (home, heir, run):

        def hint(epoch: int, signal: Signal) -> None:
            del signal
            hinted.append(epoch)

        monkeypatch.setattr(assembly_of(home).shared.notifier, "notify_worker", hint)
        assert await home.cancel(run.run_id)
        assert hinted == [heir.worker.epoch]
        async with asyncio.timeout(10):
            await agent.stopped.wait()  # by its tick


async def test_home_does_not_take_over_its_own_cleaned_up_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end is pending while the store is unavailable, and its turn comes first."""
    agent, away = Agent(), asyncio.Event()
    async with gateway(tmp_path, agent=agent) as home, gateway(tmp_path) as other:
        _, holder = await running(other, "t")
        run = await home.create_or_reject("t", "agent", multitask_strategy="enqueue")
        home.launch(run)
        store: Any = home.store
        claim, update_status, claimed = store.claim, store.update_status, asyncio.Event()

        async def when_back(*args: Any, **kwargs: Any) -> Any:
            if not away.is_set():
                raise StoreUnavailable("it is away")
            return await update_status(*args, **kwargs)

        async def seen(*args: Any, **kwargs: Any) -> Any:
            answer = await claim(*args, **kwargs)
            claimed.set()
            return answer

        monkeypatch.setattr(store, "update_status", when_back)
        monkeypatch.setattr(store, "claim", seen)
        await home.cleanup(run.run_id, delay=0)
        holder.may_end.set()
        async with asyncio.timeout(10):
            while not (await other.runs.explain(run.run_id)).run.holds_thread:
                await claimed.wait()
                claimed.clear()
        away.set()
        await wait_until(
            lambda: settled(other, run.run_id), description="its end is written, and its thread is free"
        )
        assert not agent.started.is_set()
        agent.may_end.set()


async def settled(manager: RunManager, run_id: str) -> bool:
    return (await manager.runs.explain(run_id)).run.settled


def handed_over(cx: Any, now: int, run_id: str) -> None:
    cx.execute("UPDATE runs SET home_epoch = NULL, updated_at = ? WHERE run_id = ?", (now, run_id))


async def hand_over(heir: RunManager, run: RunRecord) -> None:
    """Makes a queued run of `heir` look like one that another worker handed over: it has no home, and `heir`
    has no record of it. The claim of its admission is answered first, because its answer would belong to the
    dropped record."""
    await wait_until(lambda: not jobs_of(heir), description="the claim of its admission is answered")
    await write_of(heir.store)(handed_over, run.run_id)
    assembly_of(heir).shared.registry.drop(run.run_id)


async def test_cancel_during_the_takeover_wins(tmp_path: Path) -> None:
    """One worker claims the run, and another cancels it before its task exists: it never starts."""
    agent = Agent()
    async with gateway(tmp_path) as other, gateway(tmp_path, agent=agent) as heir:
        _, holder = await running(other, "t")
        run = await heir.create_or_reject("t", "agent", multitask_strategy="enqueue")
        await hand_over(heir, run)
        held = hold_answers(heir.store, "row", lambda row: row is not None and row.run_id == run.run_id)
        holder.may_end.set()
        await held.reached.wait()
        assert await other.cancel(run.run_id)
        held.go_on.set()
        assert await other.wait(run.run_id, timeout=10) is None
        assert not agent.started.is_set()


async def test_started_run_of_a_dead_worker_is_not_restarted(tmp_path: Path) -> None:
    """Reported failures 17, 41 and 45: a worker dies during a portable run. The run ends with an error that
    names the reason. The next worker does not run it from its first step."""
    first, second = Agent(), Agent()
    async with (
        gateway(tmp_path, lease=SHORT, agent=first) as victim,
        gateway(tmp_path, lease=SHORT, agent=second) as peer,
    ):
        run = await victim.create_or_reject("t", "agent")
        victim.launch(run)
        await first.started.wait()
        await hang(victim)
        with pytest.raises(Exception, match="dead or lost its lease"):
            await peer.wait(run.run_id, timeout=10)
        again = await peer.create_or_reject("t", "agent")
        peer.launch(again)
        await second.started.wait()
        assert second.ctx.run.run_id == again.run_id
        second.may_end.set()
        await peer.wait(again.run_id, timeout=10)


async def test_handed_over_run_keeps_its_limits(tmp_path: Path, stack: AsyncExitStack) -> None:
    first, second = Agent(), Agent()
    home = await stack.enter_async_context(gateway(tmp_path, agent=first))
    friend = await stack.enter_async_context(gateway(tmp_path, agent=second))
    _, holder = await running(friend, "t")
    run = await home.create_or_reject("t", "agent", multitask_strategy="enqueue", idle_timeout=0.2)
    home.launch(run)
    async with asyncio.timeout(10):
        await home.worker.drain(grace=30)
        holder.may_end.set()
        await second.started.wait()
        with pytest.raises(RunFailed, match="no sign of life"):
            await friend.wait(run.run_id)
    assert not first.started.is_set()
    ended = await friend.runs.explain(run.run_id)
    assert (ended.run.status, ended.run.cancel_cause) == (RunStatus.timeout, "idle")


@pytest.mark.parametrize("unanswered", ["claim", "row"])
async def test_claimed_run_starts_although_the_claims_answer_was_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unanswered: str
) -> None:
    """It already holds its thread, so it is in no queue that a tick reads."""
    agent = Agent(returns=1)
    async with gateway(tmp_path) as other, gateway(tmp_path, agent=agent) as heir:
        _, holder = await running(other, "t")
        run = await heir.create_or_reject("t", "agent", multitask_strategy="enqueue")
        await hand_over(heir, run)
        call, failed = getattr(heir.store, unanswered), asyncio.Event()

        async def once(*args: Any, **kwargs: Any) -> Any:
            answer = await call(*args, **kwargs)
            if answer is not None and not failed.is_set():
                failed.set()
                raise StoreUnavailable("the connection broke")
            return answer

        monkeypatch.setattr(heir.store, unanswered, once)
        holder.may_end.set()
        async with asyncio.timeout(10):
            await failed.wait()
            await agent.started.wait()
        agent.may_end.set()
        assert await other.wait(run.run_id, timeout=10) == 1
