"""Managers, runs and tasks as a caller of the run manager makes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from coordinator import RunManager, RunRecord, RunStatus
from stores.base import Row


@asynccontextmanager
async def managing(store: Any = None, **options: Any) -> AsyncGenerator[RunManager]:
    """A manager that is closed again, whatever the test left running."""
    manager = RunManager(store, **options)
    try:
        yield manager
    finally:
        await manager.shutdown(timeout=0)
        await manager.aclose()


async def row(manager: RunManager, run_id: str) -> Row:
    stored = await manager.store.get(run_id)
    assert stored is not None, f"no row of {run_id}"
    return stored


async def running(manager: RunManager, thread_id: str = "t", **fields: Any) -> RunRecord:
    """Admits a run and sets it to running, without a task."""
    record = await manager.create_or_reject(thread_id, **fields)
    await manager.set_status(record.run_id, RunStatus.running)
    assert record.status is RunStatus.running
    return record


class Work:
    """A task that a caller attaches to a run: it runs until it is cancelled or released."""

    def __init__(self, record: RunRecord) -> None:
        self.begun, self.release, self.unwinding, self.unwound = (asyncio.Event() for _ in range(4))
        self.cancels = 0
        self.task = record.task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        self.begun.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancels += 1
            self.unwinding.set()
            await self._unwind()
            raise

    async def _unwind(self) -> None:
        while not self.unwound.is_set():
            try:
                await self.unwound.wait()
            except asyncio.CancelledError:
                self.cancels += 1


async def working(record: RunRecord) -> Work:
    work = Work(record)
    await work.begun.wait()
    return work
