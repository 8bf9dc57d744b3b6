"""Cancel of a run on another process: from the call on one worker to CancelledError in the task on the other.

All processes are on one machine, where CLOCK_MONOTONIC is common. Beside it, in the same run, a bare
publish/subscribe round trip through the same server with the plain client library: back to back, and at the
pace of the cancels. A cancel comes alone, to processes that have slept and whose caches are cold, so it is
judged by a round trip that comes alone as well.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import tempfile
import time
from pathlib import Path

from bench.bare import connect
from bench.processes import WorkerProcess, workers
from bench.report import Measure, at_most, median, quantile
from bench.worker import QUIET
from coordinator.servers.valkey import ValkeyServer
from coordinator.settings import Settings

CANCELS = 300
STORE_ONLY_CANCELS = 12


async def run(rounds: int) -> list[Measure]:
    hot: list[float] = []
    bare: list[float] = []
    with ValkeyServer() as server:
        quiet: list[float] = []
        busy: list[float] = []
        for _ in range(rounds):
            hot += await _bare_round_trips(server.url, pause=0)
            bare += await _bare_round_trips(server.url, pause=QUIET)
            quiet += await _cancels(server.url, CANCELS, saturating=0)
            busy += await _cancels(server.url, CANCELS, saturating=2)
    alone = await _cancels(None, STORE_ONLY_CANCELS, saturating=0)
    trip, short_tick = median(bare), Settings().short_tick
    note = f"{median(quiet) / trip:.2f} x the bare round trip"
    return [
        Measure("cancel", "bare publish/subscribe round trip, back to back, median", median(hot), "ms"),
        Measure("cancel", "bare publish/subscribe round trip, at the same pace, median", trip, "ms"),
        at_most(Measure("cancel", "Redis, median", median(quiet), "ms", note=note), round(3 * trip, 3)),
        at_most(Measure("cancel", "Redis, p99", quantile(quiet, 0.99), "ms"), 10),
        at_most(
            Measure("cancel", "Redis, two others saturating the file, p99", quantile(busy, 0.99), "ms"), 50
        ),
        at_most(Measure("cancel", "Redis, two others saturating the file, max", max(busy), "ms"), 300),
        Measure("cancel", "Redis, two others saturating the file, median", median(busy), "ms"),
        at_most(
            Measure("cancel", "no Redis, max", max(alone), "ms"),
            short_tick * 1000 * (1 + Settings().jitter) + 50,
        ),
        Measure("cancel", "no Redis, median", median(alone), "ms"),
    ]


async def _cancels(url: str | None, count: int, *, saturating: int) -> list[float]:
    with tempfile.TemporaryDirectory() as folder:
        store = f"sqlite:///{Path(folder) / 'runs.db'}"
        async with workers(2 + saturating, store, url) as (owner, other, *busy):
            for worker in busy:
                await worker.call("saturate", at_once=20)
            if url is not None:
                await asyncio.sleep(0.5)  # until both are subscribed
            return [await cancel_elsewhere(owner, other, number) for number in range(count)]


async def cancel_elsewhere(owner: WorkerProcess, other: WorkerProcess, number: int) -> float:
    run_id = await owner.call("hold", thread=f"thread-{number}")
    began, _ = await other.call("cancel", run=run_id)
    return (await owner.call("stopped", run=run_id) - began) * 1000


async def _bare_round_trips(url: str, *, pause: float) -> list[float]:
    context = multiprocessing.get_context("spawn")
    echo = context.Process(target=_echo, args=(url,), daemon=True)
    echo.start()
    client = connect(url)
    try:
        async with client.pubsub() as subscription:
            await subscription.subscribe("pong")
            while await client.publish("ping", "0") == 0:  # noqa: ASYNC110 - another process subscribes
                await asyncio.sleep(0.02)
            trips: list[float] = []
            async for message in subscription.listen():
                if message["type"] != "message":
                    continue
                now = time.monotonic()
                if (sent := float(message["data"])) > 0:
                    trips.append((now - sent) * 1000)
                if len(trips) == CANCELS:
                    return trips
                await asyncio.sleep(pause)
                await client.publish("ping", repr(time.monotonic()))
        return trips
    finally:
        echo.kill()
        await client.aclose()


def _echo(url: str) -> None:
    asyncio.run(_echo_forever(url))


async def _echo_forever(url: str) -> None:
    client = connect(url)
    async with client.pubsub() as subscription:
        await subscription.subscribe("ping")
        async for message in subscription.listen():
            if message["type"] == "message":
                await client.publish("pong", message["data"])
