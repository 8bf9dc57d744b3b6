"""A run that cannot settle holds its own thread, but delays no caller: cancel, reject and `has_inflight`
answer soon, on its owner as elsewhere."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from coordinator import (
    ConflictError,
    NotSettled,
    RunContext,
    RunManager,
    RunStatus,
    Settings,
    open_coordinator,
)
from coordinator.assistants.function import FunctionAssistant
from tests.support.agents import quick
from tests.support.held import Held, hold_calls
from tests.support.teams import QUICK
from tests.support.waiting import wait_until

SOON = 8.0
"""s. Much longer than it takes, also on a busy machine; none of these calls came back at all before."""


async def unsettled(manager: RunManager, *, children: int = 0) -> tuple[str, Held]:
    """A run whose code is over and whose end the store keeps waiting, with children of the same kind."""
    held = hold_calls(manager.store, "finish")
    run = await manager.create_or_reject("t")
    for number in range(children):
        child = await manager.create_or_reject(f"child {number}", parent_run_id=run.run_id)
        manager.launch(child, quick)
    manager.launch(run, quick)
    await held.reached.wait()
    return run.run_id, held


@pytest.mark.parametrize("children", [0, 60])
async def test_cancel_of_a_run_that_cannot_settle_is_answered(alone: RunManager, children: int) -> None:
    run_id, held = await unsettled(alone, children=children)
    async with asyncio.timeout(SOON):
        assert await alone.cancel(run_id)
    held.go_on.set()


@pytest.mark.parametrize("wait", [0, 0.3])
async def test_cancel_with_wait_is_bounded_by_its_timeout(alone: RunManager, wait: float) -> None:
    run_id, held = await unsettled(alone)
    async with asyncio.timeout(SOON):
        with pytest.raises(NotSettled):
            await alone.cancel(run_id, wait=wait)
    held.go_on.set()
    assert await alone.cancel(run_id, wait=20)


async def test_reject_behind_a_run_that_cannot_settle_is_a_conflict(alone: RunManager) -> None:
    run_id, held = await unsettled(alone)
    async with asyncio.timeout(SOON):
        with pytest.raises(ConflictError) as refused:
            await alone.create_or_reject("t")
    assert refused.value.active_run_id == run_id
    held.go_on.set()


async def test_has_inflight_is_true_while_a_run_cannot_settle(alone: RunManager) -> None:
    run_id, held = await unsettled(alone)
    async with asyncio.timeout(SOON):
        assert await alone.has_inflight("t")
    held.go_on.set()
    await alone.wait(run_id, timeout=20)
    assert not await alone.has_inflight("t")


class Stuck:
    """States whose first `times` attempts to restore never come back, not even when they are cancelled."""

    kind = "stuck"

    def __init__(self, times: int, *, forgets: bool = False) -> None:
        self.forgets = forgets
        self.times, self.attempts = times, list[int]()
        self.released = asyncio.Event()

    def opened(self) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    async def open(self, thread_id: str, run_id: str, fence: int) -> Any:
        return {"kind": self.kind}

    async def restore(self, thread_id: str, run_id: str, ref: Any, fence: int) -> Any:
        self.attempts.append(fence)
        while len(self.attempts) <= self.times and not self.released.is_set():
            try:
                await self.released.wait()
            except asyncio.CancelledError:
                continue
        return None

    def close(self, thread_id: str, fence: int) -> None: ...
    async def forget(self, run_ids: Any) -> None:
        """As `restore`, whatever `times` is: until it is released."""
        while self.forgets and not self.released.is_set():
            try:
                await self.released.wait()
            except asyncio.CancelledError:
                continue

    async def copy(self, *args: Any) -> None: ...
    async def delete(self, *args: Any) -> None: ...


def assistant_with(states: Any, started: asyncio.Event) -> Any:
    """An assistant with such states, whose runs go on for ever."""

    async def forever(ctx: RunContext) -> None:
        started.set()
        await asyncio.Event().wait()

    return FunctionAssistant(forever, states, name="restored")


@pytest.mark.parametrize("times", [1, 100])
async def test_hanging_rollback_is_retried_with_a_new_fence_and_given_up(tmp_path: Path, times: int) -> None:
    """Each attempt takes `restore_timeout` at most, and counts."""
    states, started = Stuck(times), asyncio.Event()
    assistant = assistant_with(states, started)
    settings = Settings(store=f"sqlite:///{tmp_path / 'runs.db'}", restore_timeout=0.1, **QUICK)
    async with open_coordinator(settings=settings, assistants={"restored": assistant}) as manager:
        run = await manager.create_or_reject("t", "restored")
        manager.launch(run)
        await started.wait()
        assert await manager.cancel(run.run_id, action="rollback", wait=20)
        row = (await manager.runs.explain(run.run_id)).run
        assert row.status is RunStatus.interrupted
        assert len(states.attempts) == min(times + 1, 3)
        assert states.attempts == sorted(set(states.attempts)), "each has a fence of its own"
        assert ("Rollback failed" in (row.error or "")) is (times == 100)
        states.released.set()


async def test_undo_data_that_cannot_be_removed_blocks_no_queue(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    states: Any = Stuck(0, forgets=True)
    assistant = FunctionAssistant(quick, states, name="quick")
    without_ticks: Any = {**QUICK, "tick": 60.0, "short_tick": 60.0}
    settings = Settings(store=f"sqlite:///{tmp_path / 'runs.db'}", restore_timeout=0.1, **without_ticks)
    async with (
        asyncio.timeout(20),
        open_coordinator(settings=settings, assistants={"quick": assistant}) as it,
    ):
        try:
            runs = [await it.create_or_reject("t", "quick", multitask_strategy="enqueue") for _ in range(3)]
            for run in runs:
                it.launch(run)
            for run in runs:
                await it.wait(run.run_id)
            await wait_until(
                lambda: caplog.text.count("could not be removed") == len(runs),
                description="each call to forget is over",
            )
        finally:
            states.released.set()
