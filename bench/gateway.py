"""Over HTTP: a cancel that lands on another gateway, many streams at once, and what a run costs a request.

Three gateways with a worker each, on ports of their own, so that it is known who has the run; one store and
one Redis. The client is the least that speaks HTTP, in the same process for all that is compared.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from bench.http import Connection, connected
from bench.report import Measure, at_most, median, quantile
from bench.worker import QUIET
from coordinator.servers.process import free_port
from coordinator.servers.valkey import ValkeyServer

GATEWAYS = 3
CANCELS = 100
STREAMS = 1_000
STEPS = 5
PAUSE = 2.0  # seconds between the steps of a streamed run
AT_ONCE = 50
REQUESTS = 2_000

BARE = """
import sys, uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

async def nothing(request):
    await request.json()
    return JSONResponse({"done": 1})

uvicorn.run(Starlette(routes=[Route("/runs/wait", nothing, methods=["POST"]), Route("/ok", nothing)]),
            port=int(sys.argv[1]), log_level="error", access_log=False)
"""


async def run(rounds: int) -> list[Measure]:
    accepted: list[float] = []
    stopped: list[float] = []
    answered: list[float] = []
    rates: list[float] = []
    bare: list[float] = []
    with ValkeyServer() as server, tempfile.TemporaryDirectory() as folder:
        store = f"sqlite:///{Path(folder) / 'runs.db'}"
        async with gateways(GATEWAYS, store, server.url) as ports, _bare() as bare_port:
            for _ in range(rounds):
                for one in await _cancels(ports, wait=False):
                    accepted.append(one.answered)
                    stopped.append(one.stopped)
                answered += [one.answered for one in await _cancels(ports, wait=True)]
                bare.append(await _rate(bare_port))
                rates.append(await _rate(ports[0]))
            streams = await _streams(ports)
    ratio = f"{median(bare) / median(rates):.1f} x less than the bare route"
    return [
        Measure("gateway", "cancel on another gateway, accepted, median", median(accepted), "ms"),
        at_most(Measure("gateway", "cancel on another gateway, stopped, median", median(stopped), "ms"), 5),
        at_most(
            Measure("gateway", "cancel on another gateway, stopped, p99", quantile(stopped, 0.99), "ms"), 25
        ),
        Measure("gateway", "cancel on another gateway, waited for, median", median(answered), "ms"),
        at_most(
            Measure("gateway", "cancel on another gateway, waited for, p99", quantile(answered, 0.99), "ms"),
            25,
        ),
        Measure("gateway", "bare Starlette route", median(bare), "requests/s"),
        Measure("gateway", "create and wait, one worker", median(rates), "runs/s", note=ratio),
        *streams,
    ]


@asynccontextmanager
async def gateways(count: int, store: str, redis: str) -> AsyncGenerator[list[int]]:
    """The ports of `count` gateways on one store, ready."""
    ports = [free_port() for _ in range(count)]
    program = str(Path(sys.executable).with_name("coordinator"))
    async with AsyncExitStack() as stack:
        for port in ports:
            options = ("--port", str(port), "--workers", "1", "--store", store, "--redis", redis)
            await stack.enter_async_context(serving(port, program, "serve", *options))
        yield ports


@asynccontextmanager
async def _bare() -> AsyncGenerator[int]:
    port = free_port()
    async with serving(port, sys.executable, "-c", BARE, str(port)):
        yield port


@asynccontextmanager
async def serving(port: int, *command: str, env: Mapping[str, str] | None = None) -> AsyncGenerator[int]:
    """Starts a server and yields its PID once it listens. Its log is shown only if it does not start."""
    with tempfile.TemporaryFile() as log:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.DEVNULL, stderr=log, env=env
        )
        try:
            async with asyncio.timeout(20):
                while not await listens(port):  # noqa: ASYNC110 - another process starts
                    await asyncio.sleep(0.02)
        except TimeoutError:
            log.seek(0)
            raise RuntimeError(f"{command[0]} does not listen: {log.read()[-2000:].decode()}") from None
        else:
            yield process.pid
        finally:
            process.terminate()
            await process.wait()


async def listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


class _Cancelled(NamedTuple):
    """Milliseconds from the request."""

    answered: float
    """202; with `wait` the run has settled, its thread is free, and its end is read."""
    stopped: float
    """The task on the other gateway was over, by that one's clock, which is this host's."""


async def _cancels(ports: Sequence[int], *, wait: bool) -> list[_Cancelled]:
    async with connected(ports[0]) as owner, connected(ports[1]) as other:
        return [await _cancel(owner, other, wait=wait) for _ in range(CANCELS)]


async def _cancel(owner: Connection, other: Connection, *, wait: bool) -> _Cancelled:
    thread = str(uuid4())
    body = {"assistant_id": "agent", "input": {"steps": 1, "sleep": 600}, "if_not_exists": "create"}
    run = (await owner.call("POST", f"/threads/{thread}/runs", body))["run_id"]
    path = f"/threads/{thread}/runs/{run}"
    while (await other.call("GET", path))["status"] == "pending":  # noqa: ASYNC110 - it is on another process
        await asyncio.sleep(0.002)
    await asyncio.sleep(QUIET)
    began, wall = time.perf_counter(), datetime.now(UTC)
    await other.call("POST", f"{path}/cancel?wait={int(wait)}")
    answered = (time.perf_counter() - began) * 1000
    await other.call("GET", f"{path}/join")
    receipt = await other.call("GET", f"/coordinator/runs/{run}/receipt")
    stopped = datetime.fromisoformat(receipt["stopped_at"]) - wall
    return _Cancelled(answered, stopped.total_seconds() * 1000)


async def _rate(port: int) -> float:
    """Requests a second, AT_ONCE open at a time, that make a run on a new thread and wait for its end."""
    left = iter(range(REQUESTS))

    async def client() -> None:
        async with connected(port) as connection:
            for _ in left:
                await connection.call("POST", "/runs/wait", {"assistant_id": "agent", "input": {}})

    began = time.perf_counter()
    await _together([client] * AT_ONCE)
    return REQUESTS / (time.perf_counter() - began)


async def _streams(ports: Sequence[int]) -> list[Measure]:
    """STREAMS at once, each of a run on another gateway than the one that is called."""
    late: list[float] = []
    wrong = 0

    async def follow(number: int) -> None:
        nonlocal wrong
        home, other = ports[number % len(ports)], ports[(number + 1) % len(ports)]
        thread = str(uuid4())
        async with connected(home) as owner, connected(other) as reader:
            body = {
                "assistant_id": "agent",
                "input": {"steps": STEPS, "sleep": PAUSE},
                "if_not_exists": "create",
                "stream_resumable": True,
            }
            run = (await owner.call("POST", f"/threads/{thread}/runs", body))["run_id"]
            path = f"/threads/{thread}/runs/{run}/stream?stream_mode=values"
            seen: list[int] = []
            last = time.perf_counter()
            async for line in reader.lines(path, Last_Event_ID="-1"):
                if line.startswith("data:") and "done" in (message := json.loads(line[5:])):
                    seen.append(message["done"])
                    last = time.perf_counter()
            late.append((time.perf_counter() - last) * 1000)
            wrong += seen != list(range(1, STEPS + 1))

    began = time.perf_counter()
    await _together([lambda number=number: follow(number) for number in range(STREAMS)])
    took = time.perf_counter() - began
    return [
        at_most(
            Measure("gateway", f"of {STREAMS:,} streams at once, with a loss or out of order", wrong, ""), 0
        ),
        Measure("gateway", "all of them, beyond their runs' own pauses", took - STEPS * PAUSE, "s"),
        Measure("gateway", "from the last event to the end of the stream, p99", quantile(late, 0.99), "ms"),
    ]


async def _together(work: Sequence[Callable[[], Awaitable[None]]]) -> None:
    async with asyncio.TaskGroup() as group:
        for one in work:
            group.create_task(one())  # pyright: ignore[reportArgumentType] - what is called answers a coroutine
