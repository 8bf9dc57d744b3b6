"""Runs of one process: a registry, its tasks, and a stream bridge. A second worker would know nothing of
them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import nullcontext
from typing import Any
from uuid import uuid4

from fastapi import FastAPI

from examples.embedded_gateway.gateway.agent import agent
from examples.embedded_gateway.gateway.app import create_app
from examples.embedded_gateway.gateway.runs import Action, Busy, Run, Strategy
from examples.embedded_gateway.gateway.table import RunTable

OPEN = ("pending", "running")


class Bridge:
    """The events of a run, kept for all that subscribe later."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []
        self._more = asyncio.Event()

    def publish(self, name: str, data: Any) -> None:
        self.events.append((name, data))
        self._more.set()
        self._more = asyncio.Event()

    async def subscribe(self) -> AsyncIterator[tuple[str, Any]]:
        sent = 0
        while True:
            more = self._more
            for event in self.events[sent:]:
                yield event
                if event[0] == "end":
                    return
            sent = len(self.events)
            await more.wait()


class InProcessRegistry:
    def __init__(self, table: RunTable) -> None:
        self._table = table
        self._runs: dict[str, Run] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._bridges: dict[str, Bridge] = {}
        self._rolled_back = set[str]()
        self._lock = asyncio.Lock()

    async def create(self, thread_id: str, request: dict[str, Any], strategy: Strategy) -> Run:
        async with self._lock:
            earlier = [run for run in await self.list(thread_id) if run.status in OPEN]
            if earlier and strategy == "reject":
                raise Busy
            tasks = [self._tasks[run.run_id] for run in earlier]
            if strategy == "interrupt":
                for run in earlier:
                    await self.cancel(run.run_id, "interrupt")
            run = Run(str(uuid4()), thread_id, "pending")
            self._set(run)
            self._bridges[run.run_id] = Bridge()
            self._tasks[run.run_id] = asyncio.create_task(self._work(run, request, tasks))
            return run

    def _set(self, run: Run) -> None:
        self._runs[run.run_id] = run
        self._table.write(run)

    async def _work(self, run: Run, request: dict[str, Any], earlier: list[asyncio.Task[None]]) -> None:
        bridge = self._bridges[run.run_id]

        async def publish(name: str, data: Any) -> None:
            bridge.publish(name, data)

        try:
            await asyncio.gather(*(asyncio.shield(task) for task in earlier), return_exceptions=True)
            if run.status in OPEN:
                run.status = "running"
                self._set(run)
                run.stop_reason = await agent(request, publish)
                run.status = "success"
        except asyncio.CancelledError:
            pass
        except Exception as error:  # noqa: BLE001 - the code of the agent
            run.status, run.error = "error", f"{type(error).__name__}: {error}"
        finally:
            if run.run_id in self._rolled_back:
                run.status, run.error = "error", "Rolled back by user"
            self._set(run)
            bridge.publish("end", run.status)

    async def get(self, run_id: str) -> Run | None:
        return self._runs.get(run_id)

    async def list(self, thread_id: str) -> list[Run]:
        return [run for run in reversed(self._runs.values()) if run.thread_id == thread_id]

    async def cancel(self, run_id: str, action: Action) -> bool:
        run = self._runs[run_id]
        if run.status not in OPEN:
            return run.status == "interrupted" or run_id in self._rolled_back
        run.status = "interrupted"
        if action == "rollback":
            self._rolled_back.add(run_id)
            run.status, run.error = "error", "Rolled back by user"
        self._set(run)
        self._tasks[run_id].cancel()
        await asyncio.sleep(0)
        if not self._bridges[run_id].events[-1:] and self._tasks[run_id].cancelled():
            self._bridges[run_id].publish("end", run.status)  # the task was cancelled before it began
        return True

    def subscribe(self, run_id: str) -> AsyncIterator[tuple[str, Any]]:
        return self._bridges[run_id].subscribe()


def create(table: RunTable) -> FastAPI:
    return create_app(InProcessRegistry(table), table, nullcontext())
