"""Two real workers that write their history, as input for tests of the checker."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from coordinator import RunContext, RunManager
from coordinator.errors import ConflictError
from coordinator.record import RunRecord
from tests.histories import Audit, Line, Recorder, collect
from tests.support.teams import team_of


class RecordedWorker:
    def __init__(self, name: str, manager: RunManager, lines: list[Line]) -> None:
        self.manager, self.record = manager, Recorder(name, sink=lines.append)
        self.may_end: dict[str, asyncio.Event] = {}
        self.began: dict[str, asyncio.Event] = {}

    async def agent(self, ctx: RunContext) -> Any:
        wish, run, thread = ctx.run.kwargs, ctx.run.run_id, ctx.run.thread_id
        ids: dict[str, Any] = {
            "run": run,
            "thread": thread,
            "epoch": self.manager.worker.epoch,
            "fence": ctx.fence,
        }
        self.record.step("began", **ids, values=ctx.values)
        outcome, leaves = "cancelled", None
        try:
            if (values := wish.get("saves")) is not None:
                with self.record.call("save", **ids, values=values):
                    await ctx.save(values)
            self.began[run].set()
            if wish.get("waits"):
                await self.may_end[run].wait()
            outcome, leaves = "success", wish.get("returns")
        except asyncio.CancelledError:
            self.record.step("cancelled", **ids)
            raise
        finally:
            self.record.step("stopped", **ids, outcome=outcome, values=leaves)
        return leaves

    async def admit(self, thread: str, strategy: str = "reject", **options: Any) -> RunRecord:
        key, wish = options.pop("idempotency_key", None), options
        with self.record.call("admit", thread=thread, strategy=strategy, key=key) as call:
            run = await self.manager.create_or_reject(
                thread, multitask_strategy=strategy, kwargs=wish, idempotency_key=key
            )
            call.answer(run=run.run_id)
        self.began.setdefault(run.run_id, asyncio.Event())
        self.may_end.setdefault(run.run_id, asyncio.Event())
        if not run.already_admitted:
            self.manager.launch(run, self.agent)
        return run

    async def cancel(self, run: RunRecord, **options: Any) -> bool:
        waits = options.get("wait") is not None
        ids: dict[str, Any] = {"thread": run.thread_id, "run": run.run_id}
        with self.record.call("cancel", **ids, action=options.get("action", "interrupt"), wait=waits) as call:
            done = await self.manager.cancel(run.run_id, **options)
            call.answer(result=done)
        return done

    async def wait(self, run: RunRecord) -> None:
        with self.record.call("wait", thread=run.thread_id, run=run.run_id) as call:
            await self.manager.wait(run.run_id)
            record = await self.manager.get(run.run_id)
            call.answer(status=None if record is None else record.status.value)

    async def get(self, run: RunRecord) -> None:
        with self.record.call("get", thread=run.thread_id, run=run.run_id) as call:
            record = await self.manager.get(run.run_id)
            source = "store" if record is None or record.store_only else "memory"
            call.answer(status=None if record is None else record.status.value, source=source)


async def record_everything(folder: Path) -> tuple[Sequence[Line], Audit]:
    """One thread for each strategy, on two workers."""
    lines: list[Line] = []
    async with team_of(2, folder) as (one, two):
        a, b = RecordedWorker("a.0", one, lines), RecordedWorker("b.0", two, lines)
        await _rejected(a, b)
        await _rolled_back(a, b)
        await _queued(a, b)
        await _interrupted(a, b)
        audit = await collect(one.store, ["rejected", "rolled-back", "queued", "interrupted"])
    return lines, audit


async def _rejected(a: RecordedWorker, b: RecordedWorker) -> None:
    first = await a.admit("rejected", waits=True, returns={"n": 1}, idempotency_key="k")
    await a.began[first.run_id].wait()
    await b.get(first)
    with pytest.raises(ConflictError):
        await b.admit("rejected")
    await a.admit("rejected", waits=True, returns={"n": 1}, idempotency_key="k")
    a.may_end[first.run_id].set()
    await b.wait(first)
    await b.get(first)
    await b.wait(await b.admit("rejected", returns={"n": 2}))


async def _rolled_back(a: RecordedWorker, b: RecordedWorker) -> None:
    await a.wait(await a.admit("rolled-back", returns={"n": 1}))
    undone = await a.admit("rolled-back", saves={"n": 2}, waits=True)
    await a.began[undone.run_id].wait()
    await b.cancel(undone, action="rollback", wait=5.0)
    await a.get(undone)
    await a.get(undone)
    await b.wait(await b.admit("rolled-back", returns={"n": 3}))


async def _queued(a: RecordedWorker, b: RecordedWorker) -> None:
    first = await a.admit("queued", waits=True)
    await a.began[first.run_id].wait()
    line = [await worker.admit("queued", "enqueue", returns={"n": at}) for at, worker in enumerate((a, b, a))]
    a.may_end[first.run_id].set()
    await asyncio.gather(*(b.wait(run) for run in (first, *line)))


async def _interrupted(a: RecordedWorker, b: RecordedWorker) -> None:
    first = await a.admit("interrupted", saves={"n": 1}, waits=True)
    await a.began[first.run_id].wait()
    second = await b.admit("interrupted", "interrupt", returns={"n": 2})
    await asyncio.gather(b.wait(first), a.wait(second))
    await a.cancel(second)
