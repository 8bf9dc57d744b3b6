"""Callers that make their own tasks: attach, report running, report the end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from coordinator import RunManager, RunRecord, RunStatus
from tests.support.agents import Agent, launched, running
from tests.support.held import hold_calls
from tests.support.inside import assembly_of
from tests.support.waiting import wait_until


class OwnTask:
    """What such a caller does, as its gateway has it."""

    def __init__(self, manager: RunManager, record: RunRecord) -> None:
        self.manager, self.record = manager, record
        self.working, self.may_end, self.ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
        record.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            await self.manager.set_status(self.record.run_id, RunStatus.running)
            self.working.set()
            await self.may_end.wait()
            await self.manager.set_status(self.record.run_id, RunStatus.success)
        except asyncio.CancelledError:
            await self.manager.set_status(self.record.run_id, RunStatus.interrupted)
            raise
        finally:
            self.ended.set()


async def test_thread_is_freed_when_the_callers_task_has_ended(
    team: list[RunManager],
) -> None:
    a, b = team
    own = OwnTask(a, await a.create_or_reject("t"))
    await own.working.wait()
    own.may_end.set()
    await b.wait(own.record.run_id, timeout=20)
    assert own.record.status is RunStatus.success
    assert own.ended.is_set()


@pytest.mark.parametrize("canceller", [0, 1], ids=["owner", "other worker"])
async def test_cancel_stops_the_callers_task(team: list[RunManager], canceller: int) -> None:
    own = OwnTask(team[0], await team[0].create_or_reject("t"))
    await own.working.wait()
    assert await team[canceller].cancel(own.record.run_id, wait=5)
    assert own.ended.is_set()
    assert own.record.status is RunStatus.interrupted


async def test_set_status_running_waits_for_the_turn(team: list[RunManager]) -> None:
    a, b = team
    _, old = await running(a, "t", Agent(stubborn=True))
    own = OwnTask(b, await b.create_or_reject("t", multitask_strategy="interrupt"))
    await old.cancelled.wait()
    assert not own.working.is_set()
    old.may_stop.set()
    async with asyncio.timeout(20):
        await own.working.wait()


async def test_cancel_before_the_task_is_attached_stops_it(team: list[RunManager]) -> None:
    """Reported failure 4: it must never start."""
    a, _ = team
    record = await a.create_or_reject("t")
    assert await a.cancel(record.run_id)
    own = OwnTask(a, record)
    await own.ended.wait()
    assert not own.working.is_set()
    assert record.status is RunStatus.interrupted


async def test_task_is_cancelled_at_once_if_its_run_was_taken_over_before_it_started(
    team: list[RunManager],
) -> None:
    a, b = team
    held = hold_calls(a.store, "start")
    own = OwnTask(a, await a.create_or_reject("t"))
    await held.reached.wait()
    entry = assembly_of(a).shared.registry.entry(own.record.run_id)
    assert entry is not None
    assert entry.own is not None
    assert await b.store.refence(entry.own) is not None
    held.go_on.set()
    async with asyncio.timeout(20):
        await own.ended.wait()
    assert not own.working.is_set()
    assert own.record.abort_event.is_set()
    assert own.record.error == "the run was taken over before it started"


@pytest.mark.parametrize("canceller", [0, 1], ids=["owner", "other worker"])
async def test_run_without_a_task_settles_with_its_decision(team: list[RunManager], canceller: int) -> None:
    record = await team[0].create_or_reject("t")
    await team[0].set_status(record.run_id, RunStatus.running)
    assert await team[canceller].cancel(record.run_id, wait=5)
    assert not await team[0].has_inflight("t")


async def test_start_returns_whether_to_run(team: list[RunManager]) -> None:
    a, _ = team
    record = await a.create_or_reject("t")
    assert await a.start(record.run_id)
    await a.cancel(record.run_id)
    again = await a.create_or_reject("t")
    await a.cancel(again.run_id)
    assert not await a.start(again.run_id)


async def test_next_run_waits_for_the_callers_task_not_for_its_report(team: list[RunManager]) -> None:
    a, b = team
    record = await a.create_or_reject("t")
    reported, may_end = asyncio.Event(), asyncio.Event()

    async def tidy_up_after_success() -> None:
        await a.set_status(record.run_id, RunStatus.running)
        await a.set_status(record.run_id, RunStatus.success)
        reported.set()
        await may_end.wait()

    record.task = asyncio.create_task(tidy_up_after_success())
    await reported.wait()
    _, new = await launched(b, "t", multitask_strategy="enqueue")
    assert not new.started.is_set()
    may_end.set()
    async with asyncio.timeout(20):
        await new.started.wait()


async def test_status_running_is_ignored_after_the_end(team: list[RunManager]) -> None:
    a, _ = team
    record = await a.create_or_reject("t")
    await a.cancel(record.run_id)
    await a.set_status(record.run_id, RunStatus.running)
    await a.set_status(record.run_id, RunStatus.success)
    assert record.status is RunStatus.interrupted


ENDS: list[Callable[[RunManager, str], Awaitable[object]]] = [
    lambda manager, run_id: manager.set_status(run_id, RunStatus.error, error="no model"),
    lambda manager, run_id: manager.cancel(run_id),
]


@pytest.mark.parametrize("end", ENDS, ids=["set_status", "cancel"])
async def test_queued_run_that_ends_as_it_gets_the_thread_frees_it(
    team: list[RunManager],
    monkeypatch: pytest.MonkeyPatch,
    end: Callable[[RunManager, str], Awaitable[object]],
) -> None:
    a, b = team
    _, first = await running(a, "t")
    record = await a.create_or_reject("t", multitask_strategy="enqueue")
    claim = a.store.claim

    async def ends_meanwhile(*args: object, **kwargs: object) -> object:
        claimed = await claim(*args, **kwargs)  # type: ignore[arg-type]  # passed through
        if claimed is not None:
            ending.append(asyncio.ensure_future(end(a, record.run_id)))
            await asyncio.sleep(0)
        return claimed

    ending: list[asyncio.Future[object]] = []
    monkeypatch.setattr(a.store, "claim", ends_meanwhile)
    first.may_end.set()
    await wait_until(lambda: ending, description="the thread is claimed")
    await ending[0]
    await wait_until(lambda: free(b), description="the thread is free")


async def free(manager: RunManager) -> bool:
    return not await manager.has_inflight("t")
