"""`rollback` interrupts, and restores the values that the thread had before the old run."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from coordinator import RunManager, StoreUnavailable
from coordinator.schemas import Json
from tests.support.agents import Agent, launched, running
from tests.support.inside import assembly_of

BOTH = pytest.mark.parametrize("second", [0, 1], ids=["same worker", "other worker"])


async def values_of(manager: RunManager, thread_id: str) -> Any:
    thread = await manager.threads.get(thread_id)
    return thread.values


@BOTH
async def test_rollback_restores_the_values_before_the_next_run_reads_them(
    team: list[RunManager], second: int
) -> None:
    """Reported failure 10: the old rollback must not overwrite the writes of the new run."""
    await team[0].threads.replace_values("t", {"turn": 1})
    _, old = await running(team[0], "t", Agent(saves={"turn": 2}, stubborn=True))
    assert await values_of(team[second], "t") == {"turn": 2}
    run, new = await launched(team[second], "t", Agent(saves={"turn": "new"}), multitask_strategy="rollback")
    assert not new.started.is_set()
    old.may_stop.set()
    async with asyncio.timeout(20):
        await new.started.wait()
    new.may_end.set()
    await team[second].wait(run.run_id, timeout=20)
    assert await values_of(team[0], "t") == {"turn": "new"}


@BOTH
async def test_replacing_run_starts_from_the_restored_values(team: list[RunManager], second: int) -> None:
    await team[0].threads.replace_values("t", {"turn": 1})
    await running(team[0], "t", Agent(saves={"turn": 2}))
    run = await team[second].create_or_reject("t", multitask_strategy="rollback")
    seen: list[Any] = []

    async def look(ctx: Any) -> None:
        seen.append(ctx.values)

    team[second].launch(run, look)
    await team[second].wait(run.run_id, timeout=20)
    assert seen == [{"turn": 1}]


async def test_cancel_with_rollback_restores_the_values(team: list[RunManager]) -> None:
    a, b = team
    await a.threads.replace_values("t", {"turn": 1})
    run, _ = await running(a, "t", Agent(saves={"turn": 2}))
    assert await b.cancel(run.run_id, action="rollback", wait=5)
    assert await values_of(b, "t") == {"turn": 1}
    thread = await b.threads.get("t")
    assert thread.status == "idle", "a run that was undone leaves no trace in the thread's status"


async def test_rollback_of_a_pending_run_restores_nothing(team: list[RunManager]) -> None:
    a, b = team
    await a.threads.replace_values("t", {"turn": 1})
    run = await a.create_or_reject("t")
    assert await b.cancel(run.run_id, action="rollback", wait=5)
    assert await values_of(b, "t") == {"turn": 1}


@pytest.mark.parametrize("failures", [2, 3])
async def test_failing_rollback_is_tried_three_times(
    alone: RunManager, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    """The owner and an adopting worker try. Then the thread is freed, and the run shows the failure."""
    await alone.threads.replace_values("t", {"turn": 1})
    run, agent = await running(alone, "t", Agent(saves={"turn": 2}))
    restore, fences = assembly_of(alone).shared.values.restore, list[int]()

    async def fails(thread_id: str, run_id: str, ref: Json, fence: int) -> Json:
        fences.append(fence)
        (row,) = await alone.runs.recent(thread_id="t")
        assert not (row.rollback_state or "").startswith("adopted"), "the reaper would undo it as well"
        if len(fences) <= failures:
            raise ZeroDivisionError("no way back")
        return await restore(thread_id, run_id, ref, fence)

    monkeypatch.setattr(assembly_of(alone).shared.values, "restore", fails)
    assert await alone.cancel(run.run_id, action="rollback", wait=5)
    assert len(fences) == 3
    assert fences == sorted(set(fences)), "what an attempt left behind is refused"
    undone = failures < 3
    assert await values_of(alone, "t") == {"turn": 1 if undone else 2}
    assert run.error == (None if undone else "Rollback failed: ZeroDivisionError: no way back")
    assert agent.stopped.is_set()
    await running(alone, "t")


@pytest.mark.parametrize("how", ["not answered", "its caller leaves"])
async def test_operation_interrupted_during_its_second_rollback_is_rolled_back(
    team: list[RunManager], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The caller's own steps end an operation, so an interrupted rollback begins again, with the fence of
    that attempt."""
    a, b = team
    await a.threads.replace_values("t", {"turn": 1})
    store: Any = a.store
    save, restore, readopt = store.save, store.restore, store.readopt
    saved, cancelled, counted, left = (asyncio.Event() for _ in range(4))
    failures = [RuntimeError("not this time")]

    async def slow_save(*args: Any, **kwargs: Any) -> None:
        await save(*args, **kwargs)
        saved.set()
        await cancelled.wait()

    async def failing_restore(*args: Any) -> Json:
        if failures:
            raise failures.pop()
        return await restore(*args)

    async def unanswered_readopt(*args: Any) -> Any:
        answer = await readopt(*args)
        if counted.is_set():
            return answer
        counted.set()
        if how == "not answered":
            raise StoreUnavailable("the outcome is unknown")
        await left.wait()  # the answer arrives after the caller has left
        return answer

    monkeypatch.setattr(store, "save", slow_save)
    monkeypatch.setattr(store, "restore", failing_restore)
    monkeypatch.setattr(store, "readopt", unanswered_readopt)
    update = asyncio.create_task(a.threads.replace_values("t", {"turn": 2}))
    await saved.wait()
    operation = await store.holder("t")
    assert await b.cancel(operation, action="rollback")
    cancelled.set()
    await counted.wait()
    if how == "its caller leaves":
        update.cancel()
    left.set()
    async with asyncio.timeout(20):
        await asyncio.wait((update,))
    assert await assembly_of(b).runs.waiter.until_settled(operation, 5)
    assert await values_of(b, "t") == {"turn": 1}
    assert (await b.runs.explain(operation)).run.rollback_state == "done"
