"""CPU of a request over HTTP, beside bare FastAPI routes that commit one row or read the same rows.

A `coordinator serve` of one worker (SQLite, FULL, no Redis) and the bare routes of bench/bare_routes.py are
loaded in turn by the same client. Its runs do nothing: those of the demo assistant add to the state of their
thread, so that each on the same thread would cost more than the one before. CPU is that of all processes and
threads of the server; the client's is not included. Each round takes the loads in the opposite order of the
round before.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from bench.cpu import cpu_seconds, process_tree
from bench.databases import scaled
from bench.gateway import serving
from bench.http import Connection, connected
from bench.report import Measure, at_least, at_most, median
from coordinator import RunContext
from coordinator.servers.process import free_port

_BENCH = "http"
AT_ONCE = 16
READS_OVER_FLOOR = 1.3
ONE_THREAD = 0.7  # of the rate on fresh threads
WAIT_CPU = {1: 1300, AT_ONCE: 600}  # us
RUN: dict[str, Any] = {"assistant_id": "agent", "input": {}, "if_not_exists": "create"}
SERVED = ("--assistants", "bench.http_floors:agent")
ENV = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}

Call = Callable[[Connection], Awaitable[Any]]


async def agent(_ctx: RunContext) -> dict[str, bool]:
    return {"done": True}


class Load(NamedTuple):
    port: int
    at_once: int
    requests: int
    call: Call


class Cost(NamedTuple):
    cpu: float
    """us a request, of the server."""
    rate: float
    """Requests per second."""


async def run(rounds: int) -> list[Measure]:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port, bare = free_port(), free_port()
        program = str(Path(sys.executable).with_name("coordinator"))
        options = ("--port", str(port), "--store", f"sqlite:///{folder / 'runs.db'}", "--redis", "", *SERVED)
        servers = {port: await stack.enter_async_context(serving(port, program, "serve", *options, env=ENV))}
        thread_id, run_id = await _history(port)
        routes = (sys.executable, "-m", "bench.bare_routes", str(bare), str(folder))
        servers[bare] = await stack.enter_async_context(serving(bare, *routes))
        processes = {port: process_tree(pid) for port, pid in servers.items()}
        loads = _loads(port, bare, thread_id, run_id)
        costs: dict[str, list[Cost]] = {what: [] for what in loads}
        for number in range(rounds + 1):
            for what, load in list(loads.items())[:: 1 if number % 2 else -1]:
                cost = await measured(load, processes[load.port])
                if number:  # the first round warms up
                    costs[what].append(cost)
    return _judged(costs)


async def _history(port: int) -> tuple[str, str]:
    """Makes 20 threads, the newest with ten finished runs; returns its id and that of a run."""
    async with connected(port) as connection:
        for _ in range(19):
            await create_and_wait(connection)
        thread_id = str(uuid4())
        for _ in range(10):
            await connection.call("POST", f"/threads/{thread_id}/runs/wait", RUN)
        runs = await connection.call("GET", f"/threads/{thread_id}/runs")
    assert len(runs) == 10
    return thread_id, runs[0]["run_id"]


async def create_and_wait(connection: Connection) -> None:
    """On a new thread."""
    await connection.call("POST", f"/threads/{uuid4()}/runs/wait", RUN)


def _loads(port: int, bare: int, thread_id: str, run_id: str) -> dict[str, Load]:
    loads: dict[str, Load] = {}
    queue = str(uuid4())

    async def enqueued(connection: Connection) -> None:
        body = {**RUN, "multitask_strategy": "enqueue"}
        await connection.call("POST", f"/threads/{queue}/runs/wait", body)

    async def commit(connection: Connection) -> None:
        await connection.call("POST", "/commit", RUN)

    for at_once, requests in ((1, scaled(150, 20)), (AT_ONCE, scaled(640, 64))):
        loads[f"create and wait, {at_once} at once"] = Load(port, at_once, requests, create_and_wait)
        loads[f"bare route that commits a row, {at_once} at once"] = Load(bare, at_once, requests, commit)
    loads["create and wait on one thread"] = Load(port, AT_ONCE, scaled(320, 64), enqueued)
    reads: dict[str, tuple[str, str, str, Any]] = {
        "list 10 runs": ("GET", f"/threads/{thread_id}/runs", f"/threads/{thread_id}/runs", None),
        "get a run": ("GET", f"/threads/{thread_id}/runs/{run_id}", f"/runs/{run_id}", None),
        "search threads": ("POST", "/threads/search", "/threads/search", {"limit": 10}),
    }
    for what, (method, path, bare_path, body) in reads.items():
        for server, at, name in ((port, path, what), (bare, bare_path, f"{what}, bare route")):
            loads[name] = Load(server, AT_ONCE, scaled(640, 64), _request(method, at, body))
    return loads


def _request(method: str, path: str, body: Any) -> Call:
    async def call(connection: Connection) -> None:
        assert await connection.call(method, path, body)

    return call


async def measured(load: Load, pids: Sequence[int]) -> Cost:
    left = iter(range(load.requests))

    async def client() -> None:
        async with connected(load.port) as connection:
            for _ in left:
                await load.call(connection)

    cpu, began = cpu_seconds(pids), time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(load.at_once):
            group.create_task(client())
    took = time.perf_counter() - began
    return Cost((cpu_seconds(pids) - cpu) / load.requests * 1e6, load.requests / took)


def _judged(costs: dict[str, list[Cost]]) -> list[Measure]:
    cpu = {what: [cost.cpu for cost in each] for what, each in costs.items()}
    measures: list[Measure] = []
    for what, each in costs.items():
        note = f"{median([cost.rate for cost in each]):,.0f}/s"
        measure = Measure(_BENCH, what, median(cpu[what]), "us CPU", note=note)
        bounds = [us for at_once, us in WAIT_CPU.items() if what == f"create and wait, {at_once} at once"]
        measures.append(at_most(measure, bounds[0]) if bounds else measure)
    for at_once in WAIT_CPU:
        floor = f"bare route that commits a row, {at_once} at once"
        ratio = _ratio(cpu[f"create and wait, {at_once} at once"], cpu[floor])
        measures.append(Measure(_BENCH, f"create and wait, {at_once} at once, over the floor", ratio, "x"))
    for what in ("list 10 runs", "get a run", "search threads"):
        ratio = _ratio(cpu[what], cpu[f"{what}, bare route"])
        measures.append(at_most(Measure(_BENCH, f"{what}, over the floor", ratio, "x"), READS_OVER_FLOOR))
    rates = {what: [cost.rate for cost in each] for what, each in costs.items()}
    one_thread = _ratio(rates["create and wait on one thread"], rates[f"create and wait, {AT_ONCE} at once"])
    measure = Measure(_BENCH, "rate on one thread (enqueue), of that on fresh threads", one_thread, "x")
    return [*measures, at_least(measure, ONE_THREAD)]


def _ratio(values: Sequence[float], floors: Sequence[float]) -> float:
    """The median of the ratios of each round: both have met the same load of the machine."""
    return median([value / floor for value, floor in zip(values, floors, strict=True)])
