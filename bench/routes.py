"""What a request of the hot routes costs, over floors: processor time of this process, not time.

The app is called without a server and without sockets, with a store on disk (SQLite, FULL), and the figures
include the threads of the store. The floors are bare FastAPI routes: one that commits a row, and for each
read one that does the same. The least of many batches, because the machine may do other work meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from fastapi import Body, FastAPI
from starlette.responses import JSONResponse
from starlette.types import ASGIApp

from bench.report import Measure, at_most, median
from coordinator import RunContext, RunManager, Settings, open_coordinator
from coordinator.gateway import create_gateway
from coordinator.gateway.server.serving import loop_factory
from stores.catalogue import ThreadQuery

BATCHES = 12
"""A round."""

SCALES = {1: 60, 16: 320}
"""Requests of a batch by how many are in flight at once."""

RUN: dict[str, Any] = {"assistant_id": "agent", "input": {"q": 1}, "if_not_exists": "create"}
LISTED = 10

WITHIN = {16: 600.0, 1: 1_300.0}
"""us of CPU that a create-and-wait may take."""
OVER_FLOOR = 1.3

Call = tuple[int, Callable[[], Awaitable[None]]]
"""How many are in flight at once, and one of them."""


async def run(rounds: int) -> list[Measure]:
    spent = await asyncio.to_thread(_measured, rounds)
    measures: list[Measure] = []
    for what, batches in spent.items():
        note = f"median {median(batches):,.0f}"
        measure = Measure("routes", what, min(batches), "us of CPU", note=note)
        waits = [bound for at_once, bound in WITHIN.items() if what == _wait(at_once)]
        measures.append(at_most(measure, waits[0]) if waits else measure)
    for read in ("list runs", "get a run", "search threads"):
        ratio = min(spent[read]) / min(spent[f"{read}, floor"])
        measures.append(at_most(Measure("routes", f"{read}, of the floor", ratio, "x"), OVER_FLOOR))
    return measures


def _wait(at_once: int) -> str:
    return f"create and wait, {at_once} at once"


def _measured(rounds: int) -> dict[str, list[float]]:
    logging.getLogger("coordinator.gateway.access").setLevel(logging.WARNING)
    with asyncio.Runner(loop_factory=loop_factory()) as runner, tempfile.TemporaryDirectory() as folder:
        return runner.run(_batches(Path(folder), rounds * BATCHES))


async def _agent(ctx: RunContext) -> dict[str, bool]:
    del ctx
    return {"done": True}


async def _batches(folder: Path, count: int) -> dict[str, list[float]]:
    settings = Settings(store=f"sqlite:///{folder / 'runs.db'}", grace=0)
    async with open_coordinator(settings=settings, assistants={"agent": _agent}) as manager:
        app = create_gateway(manager)
        async with app.running():
            thread_id = str(uuid4())
            for _ in range(LISTED):
                await _call(app, "POST", f"/threads/{thread_id}/runs/wait", RUN)
            for _ in range(LISTED):
                await _call(app, "POST", f"/threads/{uuid4()}/runs/wait", RUN)
            run_id = (await manager.runs.of_thread(thread_id))[0].run_id
            floor = _floor(folder, manager, thread_id, run_id)
            calls = _calls(app, floor, thread_id, run_id)
            spent: dict[str, list[float]] = {what: [] for what in calls}
            for number in range(count + 1):
                for what, (at_once, call) in calls.items():
                    cost = await _batch(at_once, call)
                    if number:  # the first one is not warm
                        spent[what].append(cost)
            return spent


def _calls(app: ASGIApp, floor: ASGIApp, thread_id: str, run_id: str) -> dict[str, Call]:
    async def wait() -> None:
        await _call(app, "POST", f"/threads/{uuid4()}/runs/wait", RUN)

    async def commit() -> None:
        await _call(floor, "POST", f"/commit/{uuid4()}", RUN)

    def read(app: ASGIApp, method: str, path: str, body: Any = None) -> Call:
        async def call() -> None:
            await _call(app, method, path, body)

        return 16, call

    calls: dict[str, Call] = {_wait(at_once): (at_once, wait) for at_once in SCALES}
    calls |= {f"a commit, floor, {at_once} at once": (at_once, commit) for at_once in SCALES}
    search = {"limit": LISTED}
    return calls | {
        "list runs": read(app, "GET", f"/threads/{thread_id}/runs"),
        "list runs, floor": read(floor, "GET", "/runs"),
        "get a run": read(app, "GET", f"/threads/{thread_id}/runs/{run_id}"),
        "get a run, floor": read(floor, "GET", "/run"),
        "search threads": read(app, "POST", "/threads/search", search),
        "search threads, floor": read(floor, "GET", "/threads"),
    }


def _floor(folder: Path, manager: RunManager, thread_id: str, run_id: str) -> FastAPI:
    app = FastAPI()
    executor = ThreadPoolExecutor(1)
    cx = sqlite3.connect(folder / "floor.db", check_same_thread=False, isolation_level=None)
    cx.executescript("PRAGMA journal_mode=wal; PRAGMA synchronous=full; CREATE TABLE rows (id, body)")

    def insert(row: str, body: str) -> None:
        cx.execute("INSERT INTO rows VALUES (?, ?)", (row, body))

    async def commit(row: UUID, body: dict[str, Any] = Body()) -> JSONResponse:  # noqa: B008
        await asyncio.get_running_loop().run_in_executor(executor, insert, str(row), json.dumps(body))
        return JSONResponse({"done": True})

    async def list_runs() -> JSONResponse:
        rows = await manager.runs.of_thread(thread_id, limit=10, without=("kwargs", "result", "rollback_ref"))
        return JSONResponse([_shown(row) for row in rows])

    async def get_run() -> JSONResponse:
        return JSONResponse(_shown(await manager.runs.get(run_id, thread_id=thread_id)))

    async def search() -> JSONResponse:
        rows = await manager.threads.search(ThreadQuery(limit=LISTED))
        total = await manager.threads.count()
        names = "thread_id", "created_at", "updated_at", "state_updated_at", "metadata", "status", "values"
        page = [{name: getattr(row, name) for name in names} for row in rows]
        return JSONResponse(page, headers={"X-Pagination-Total": str(total)})

    app.add_api_route("/commit/{row}", commit, methods=["POST"])
    app.add_api_route("/runs", list_runs)
    app.add_api_route("/run", get_run)
    app.add_api_route("/threads", search)
    return app


def _shown(row: Any) -> dict[str, Any]:
    names = "run_id", "thread_id", "assistant_id", "created_at", "updated_at", "status", "metadata", "error"
    return {name: getattr(row, name) for name in names}


async def _batch(at_once: int, call: Callable[[], Awaitable[None]]) -> float:
    each = SCALES[at_once] // at_once

    async def client() -> None:
        for _ in range(each):
            await call()

    before = time.process_time()
    await asyncio.gather(*(client() for _ in range(at_once)))
    return (time.process_time() - before) / (each * at_once) * 1e6


async def _call(app: ASGIApp, method: str, path: str, body: Any = None) -> bytes:
    text = b"" if body is None else json.dumps(body).encode()
    headers = [(b"host", b"127.0.0.1:2024"), (b"accept", b"*/*"), (b"user-agent", b"bench")]
    if text:
        headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(text))]
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": ("127.0.0.1", 2024),
        "client": ("127.0.0.1", 40_000),
        "scheme": "http",
        "root_path": "",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": headers,
        "state": {},
    }
    unread, answer = [text], list[bytes]()

    async def receive() -> MutableMapping[str, Any]:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        return await asyncio.get_running_loop().create_future()

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            assert message["status"] == 200, message
        else:
            answer.append(message["body"])

    await app(scope, receive, send)
    return b"".join(answer)
