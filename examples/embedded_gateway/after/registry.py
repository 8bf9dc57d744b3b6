"""The registry of the gateway on a coordinator: any worker lists, streams and cancels every run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI

from coordinator import ConflictError, Event, Projection, RunChange, RunManager, RunRecord, open_coordinator
from examples.embedded_gateway.gateway.agent import agent
from examples.embedded_gateway.gateway.app import create_app
from examples.embedded_gateway.gateway.runs import Action, Busy, Run, Strategy
from examples.embedded_gateway.gateway.table import RunTable
from stores.rows import RunRow


def shown(run: RunRecord | RunRow) -> Run:
    status, error = str(run.status), run.error
    action = run.abort_action if isinstance(run, RunRecord) else run.cancel_action
    if status == "interrupted" and action == "rollback":  # as this gateway shows it
        status, error = "error", "Rolled back by user"
    return Run(run.run_id, run.thread_id, status, error, run.extra.get("stop_reason"))


class CoordinatedRegistry:
    manager: RunManager

    def __init__(self, table: RunTable, **options: Any) -> None:
        self._table, self._options, self._tasks = table, options, set[asyncio.Task[None]]()

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        own = Projection("own_runs", self._write)
        async with open_coordinator(projections=[own], **self._options) as self.manager:
            yield

    async def _write(self, change: RunChange) -> None:
        if change.run is not None:
            await asyncio.to_thread(self._table.write, shown(change.run))

    async def create(self, thread_id: str, request: dict[str, Any], strategy: Strategy) -> Run:
        try:
            run = await self.manager.create_or_reject(thread_id, kwargs=request, multitask_strategy=strategy)
        except ConflictError:
            raise Busy from None
        self._tasks.add(task := asyncio.create_task(self._work(run)))
        task.add_done_callback(self._tasks.discard)
        return shown(run)

    async def _work(self, run: RunRecord) -> None:
        with suppress(Exception):  # its record has the error, or the run has not started
            async with self.manager.running(run, on_pending_cancel="raise") as ctx:
                ctx.end("success", extra={"stop_reason": await agent(run.kwargs, ctx.emit)})

    async def get(self, run_id: str) -> Run | None:
        record = await self.manager.get(run_id)
        return None if record is None else shown(record)

    async def list(self, thread_id: str) -> list[Run]:
        return [shown(record) for record in await self.manager.list_by_thread(thread_id)]

    async def cancel(self, run_id: str, action: Action) -> bool:
        return await self.manager.cancel(run_id, action=action)

    async def subscribe(self, run_id: str) -> AsyncIterator[tuple[str, Any]]:
        async for event in self.manager.follow(run_id):
            if isinstance(event, Event):
                yield event.mode, event.data
        run = await self.get(run_id)
        yield "end", None if run is None else run.status


def create(table: RunTable, **options: Any) -> FastAPI:
    registry = CoordinatedRegistry(table, **options)
    return create_app(registry, table, registry.running())
