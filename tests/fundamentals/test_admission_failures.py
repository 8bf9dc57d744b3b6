"""Admission is all or nothing, whatever happens to its caller or to the store."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from coordinator import (
    ConflictError,
    RunContext,
    RunManager,
    RunStatus,
    StoreUnavailable,
    UnsupportedStrategyError,
    open_coordinator,
)
from tests.support.agents import Agent, launched, running
from tests.support.inside import assembly_of
from tests.support.teams import QUICK, team_of
from tests.support.waiting import wait_until


def answer_slowly(monkeypatch: pytest.MonkeyPatch, manager: RunManager, name: str) -> asyncio.Event:
    """The write is committed, and its answer never arrives."""
    write, committed = getattr(manager.store, name), asyncio.Event()

    async def slowly(*args: Any, **kwargs: Any) -> Any:
        await write(*args, **kwargs)
        committed.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(manager.store, name, slowly)
    return committed


@pytest.mark.parametrize("times", [1, 3], ids=["once", "again during its clean-up"])
async def test_admission_cancelled_after_its_commit_is_withdrawn(
    team: list[RunManager], monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """Reported failure 11: no pending row is stranded."""
    a, b = team
    committed = answer_slowly(monkeypatch, a, "admit")
    admitting = asyncio.create_task(a.create_or_reject("t"))
    await committed.wait()
    for _ in range(times):
        admitting.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await admitting
    assert not await b.has_inflight("t")
    (row,) = await b.runs.recent(thread_id="t")
    assert row.status is RunStatus.interrupted


async def test_create_cancelled_after_its_commit_is_withdrawn(
    team: list[RunManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = team
    committed = answer_slowly(monkeypatch, a, "insert")
    creating = asyncio.create_task(a.create("t"))
    await committed.wait()
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    assert not await b.has_inflight("t")


async def test_replaced_runs_are_stopped_although_the_admission_was_cancelled(
    team: list[RunManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their cancels are committed with the new row, so they stand although the admission is withdrawn."""
    a, b = team
    old_run, old = await running(a, "t")
    committed = answer_slowly(monkeypatch, a, "admit")
    admitting = asyncio.create_task(a.create_or_reject("t", multitask_strategy="interrupt"))
    await committed.wait()
    admitting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await admitting
    async with asyncio.timeout(20):
        await old.stopped.wait()
    assert old_run.status is RunStatus.interrupted
    await wait_until(lambda: free(b), description="the thread is free")


async def test_replaced_runs_are_stopped_at_once_although_the_caller_was_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The admission itself notifies them: the next tick is an hour away."""
    async with team_of(1, tmp_path, tick=3600.0, short_tick=3600.0) as (manager,):
        _, old = await running(manager, "t")
        committed = answer_slowly(monkeypatch, manager, "admit")
        admitting = asyncio.create_task(manager.create_or_reject("t", multitask_strategy="interrupt"))
        await committed.wait()
        admitting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await admitting
        async with asyncio.timeout(10):
            await old.stopped.wait()


async def free(manager: RunManager) -> bool:
    return not await manager.has_inflight("t")


async def test_admission_cancelled_while_it_notifies_replaced_runs_is_withdrawn(
    team: list[RunManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reported failure 11, one step later: the new run is already registered."""
    a, b = team
    old = await a.create_or_reject("t")
    delivered = asyncio.Event()
    deliver = assembly_of(a).runs.delivery.deliver

    async def slowly(decision: Any) -> None:
        await deliver(decision)
        if decision.run_id == old.run_id:
            delivered.set()
            await asyncio.sleep(0)

    monkeypatch.setattr(assembly_of(a).runs.delivery, "deliver", slowly)
    admitting = asyncio.create_task(a.create_or_reject("t", multitask_strategy="interrupt"))
    await delivered.wait()
    admitting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await admitting
    await wait_until(lambda: free(b), description="nothing is stranded")


async def test_lost_claim_is_repeated_by_the_tick(
    team: list[RunManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store has given the thread to the queued run, but its worker has not received the answer."""
    a, _ = team
    first_run, first = await running(a, "t")
    run = await a.create_or_reject("t", multitask_strategy="enqueue")
    claim, lost = a.store.claim, asyncio.Event()

    async def lose(*args: Any, **kwargs: Any) -> Any:
        claimed = await claim(*args, **kwargs)
        if claimed is not None:
            lost.set()

    monkeypatch.setattr(a.store, "claim", lose)
    first.may_end.set()
    await a.wait(first_run.run_id, timeout=20)
    await lost.wait()
    a.launch(run, second := Agent())
    async with asyncio.timeout(20):
        await second.started.wait()


class UniqueViolation(Exception):
    """As a driver reports it."""

    sqlite_errorcode = sqlite3.SQLITE_CONSTRAINT_UNIQUE


async def test_exhausted_retries_on_unique_violations_raise_conflict_error(
    team: list[RunManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reported failure 13: a conflict, not a server error."""
    tries: list[None] = []

    async def lose(*_: Any, **__: Any) -> Any:
        tries.append(None)
        raise UniqueViolation

    monkeypatch.setattr(team[0].store, "admit", lose)
    with pytest.raises(ConflictError):
        await team[0].create_or_reject("t", multitask_strategy="enqueue")
    assert len(tries) == 3


async def test_unknown_strategy_is_refused_before_anything_is_written(team: list[RunManager]) -> None:
    """Reported failure 13: accepted and stored, but not enforced."""
    with pytest.raises(UnsupportedStrategyError) as refused:
        await team[0].create_or_reject("t", multitask_strategy="whatever")
    assert set(refused.value.supported) == {"reject", "interrupt", "rollback", "enqueue"}
    assert await team[0].runs.recent() == []


@pytest.mark.parametrize("strategy", ["reject", "interrupt", "rollback", "enqueue"])
async def test_accepted_strategy_is_enforced(team: list[RunManager], strategy: str) -> None:
    """Reported failure 13, for each strategy."""
    a, b = team
    _, first = await running(a, "t", Agent(stubborn=True))
    if strategy == "reject":
        with pytest.raises(ConflictError):
            await launched(b, "t", multitask_strategy=strategy)
        first.may_stop.set()
        return
    _, second = await launched(b, "t", multitask_strategy=strategy)
    if strategy != "enqueue":
        await first.cancelled.wait()
    assert not second.started.is_set()
    first.may_stop.set()
    first.may_end.set()
    async with asyncio.timeout(20):
        await second.started.wait()


@pytest.mark.parametrize("name", ["admit", "insert"])
async def test_admission_whose_outcome_is_unknown_is_withdrawn(
    team: list[RunManager], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The caller received an error: a row that was written nevertheless must not hold the thread."""
    a, b = team
    write = getattr(a.store, name)

    async def and_fails(*args: Any, **kwargs: Any) -> Any:
        await write(*args, **kwargs)
        raise StoreUnavailable("the connection broke")

    monkeypatch.setattr(a.store, name, and_fails)
    with pytest.raises(StoreUnavailable):
        await (a.create_or_reject("t") if name == "admit" else a.create("t"))
    await wait_until(lambda: free(b), description="the thread is free")
    (row,) = await b.runs.recent(thread_id="t")
    assert row.status is RunStatus.interrupted


class Silent:
    """The store commits admissions without an answer, and withdraws none before `answers` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, manager: RunManager) -> None:
        store = manager.store
        self._admit, self._withdraw = store.admit, store.withdraw
        self.answers = False
        monkeypatch.setattr(store, "admit", self.admit)
        monkeypatch.setattr(store, "withdraw", self.withdraw)

    async def admit(self, *args: Any, **kwargs: Any) -> Any:
        await self._admit(*args, **kwargs)
        raise StoreUnavailable("the answer was lost")

    async def withdraw(self, *args: Any, **kwargs: Any) -> Any:
        if not self.answers:
            raise StoreUnavailable("away")
        return await self._withdraw(*args, **kwargs)


async def test_run_that_is_being_withdrawn_is_not_recovered_as_an_orphan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller received an error. The row is queued, and this worker knows its assistant."""
    begun = asyncio.Event()

    async def poet(ctx: RunContext) -> None:
        begun.set()

    url = f"sqlite:///{tmp_path / 'runs.db'}"
    async with (
        open_coordinator(url, assistants={"poet": poet}, **QUICK) as manager,
        open_coordinator(url, **QUICK) as other,
    ):
        _, first = await running(other, "t")
        store = Silent(monkeypatch, manager)
        claimed = answers_of(monkeypatch, manager, "claim")
        with pytest.raises(StoreUnavailable):
            await manager.create_or_reject("t", "poet", multitask_strategy="enqueue")
        first.may_end.set()
        async with asyncio.timeout(20):
            while await claimed.get() is None:
                pass
        store.answers = True
        await wait_until(lambda: free(manager), description="the thread is free")
        (row,) = [row for row in await manager.runs.recent(thread_id="t") if row.assistant_id == "poet"]
        assert row.status is RunStatus.interrupted
        assert row.started_at is None
        assert not begun.is_set()


async def test_queued_claim_does_not_wait_for_later_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread was given to a run that this worker cannot execute, and whose end has to be written, too."""
    async with team_of(1, tmp_path, tick=60.0, short_tick=60.0) as (alone,):
        _, first = await running(alone, "t")
        stray = await alone.create_or_reject("t", multitask_strategy="enqueue")
        entry = assembly_of(alone).shared.registry.entry(stray.run_id)
        assert entry is not None
        assembly_of(alone).runs.settlement.hand_over(entry)
        claim, answer_lost = alone.store.claim, asyncio.Event()

        async def late(*args: Any, **kwargs: Any) -> Any:
            claimed = await claim(*args, **kwargs)
            if claimed is not None and not answer_lost.is_set():
                answer_lost.set()
                raise StoreUnavailable("the answer was lost")
            return claimed

        tries: list[None] = []

        async def written_at_last() -> None:
            tries.append(None)
            if len(tries) == 1:
                raise StoreUnavailable("away")

        monkeypatch.setattr(alone.store, "claim", late)
        first.may_end.set()
        await answer_lost.wait()
        await assembly_of(alone).shared.outbox.offer(
            stray.run_id, None, "something of the stray run", written_at_last
        )
        await wait_until(lambda: free(alone), description="the thread is free")
        (row,) = [row for row in await alone.runs.recent(thread_id="t") if row.run_id == stray.run_id]
        assert row.status is RunStatus.error
        await wait_until(lambda: alone.worker.pending_writes == 0, description="no write is pending")


def answers_of(monkeypatch: pytest.MonkeyPatch, manager: RunManager, name: str) -> asyncio.Queue[object]:
    """Returns a queue that receives each later answer of the store's method."""
    call, answers = getattr(manager.store, name), asyncio.Queue[object]()

    async def recorded(*args: Any, **kwargs: Any) -> Any:
        answer = await call(*args, **kwargs)
        answers.put_nowait(answer)
        return answer

    monkeypatch.setattr(manager.store, name, recorded)
    return answers
