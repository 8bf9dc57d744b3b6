"""The routes of the gateway. They are the same before and after."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from examples.embedded_gateway.gateway.runs import Action, Busy, Registry, Run, Strategy
from examples.embedded_gateway.gateway.table import RunTable


class NewRun(BaseModel):
    request: dict[str, Any] = Field(default_factory=dict[str, Any])
    strategy: Strategy = "reject"


class Cancel(BaseModel):
    action: Action = "interrupt"


class Routes:
    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def create(self, thread_id: str, body: NewRun) -> Run:
        try:
            return await self._registry.create(thread_id, body.request, body.strategy)
        except Busy:
            raise HTTPException(409, "the thread has a run in flight") from None

    async def list(self, thread_id: str) -> list[Run]:
        return await self._registry.list(thread_id)

    async def get(self, run_id: str) -> Run:
        run = await self._registry.get(run_id)
        if run is None:
            raise HTTPException(404, "no such run")
        return run

    async def cancel(self, run_id: str, body: Cancel) -> Run:
        await self.get(run_id)
        if not await self._registry.cancel(run_id, body.action):
            raise HTTPException(409, "the run has ended")
        return await self.get(run_id)

    async def stream(self, run_id: str) -> StreamingResponse:
        await self.get(run_id)

        async def body() -> AsyncGenerator[str]:
            async for name, data in self._registry.subscribe(run_id):
                yield f"event: {name}\ndata: {json.dumps(data)}\n\n"

        return StreamingResponse(body(), media_type="text/event-stream")


def create_app(registry: Registry, table: RunTable, running: AbstractAsyncContextManager[Any]) -> FastAPI:
    """`running`: entered for the life of the app."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        async with running:
            yield

    app, routes = FastAPI(lifespan=lifespan), Routes(registry)
    app.post("/threads/{thread_id}/runs")(routes.create)
    app.get("/threads/{thread_id}/runs")(routes.list)
    app.get("/runs/{run_id}")(routes.get)
    app.post("/runs/{run_id}/cancel")(routes.cancel)
    app.get("/runs/{run_id}/stream")(routes.stream)
    app.get("/report")(table.report)
    return app
