"""Cancel of a run on another process: from the call on one worker to CancelledError in the task on the other.

All processes are on one machine, where CLOCK_MONOTONIC is common. Beside each cancel, in turn, a bare
publish/subscribe round trip through the same server with the plain client library, after a pause of the same
length. Warm: a round trip after 0.02 s, a cancel as soon as its run is running. Cold: both after 0.02 to
0.52 s, for a cancel comes alone, to processes that have slept and whose caches are cold.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bench.bare import connect
from bench.databases import scaled
from bench.processes import WorkerProcess, workers
from bench.report import Measure, at_most, median, quantile
from bench.worker import QUIET
from coordinator.servers.valkey import ValkeyServer
from coordinator.settings import Settings

CANCELS = scaled(300, 30)
COLD_CANCELS = scaled(100, 20)
STORE_ONLY_CANCELS = 12
COLD = 0.5  # s, the longest pause beyond QUIET


async def run(rounds: int) -> list[Measure]:
    warm, cold, busy, hot = _Pairs(), _Pairs(), list[float](), list[float]()
    with ValkeyServer() as server:
        for _ in range(rounds):
            async with _round_trips(server.url) as bare:
                hot += [await bare.trip() for _ in range(CANCELS)]
                await _compared(server.url, bare, warm, [0] * CANCELS)
                pauses = [QUIET + random.random() * COLD for _ in range(COLD_CANCELS)]
                await _compared(server.url, bare, cold, pauses)
            busy += await _cancels(server.url, CANCELS, saturating=2)
    alone = await _cancels(None, STORE_ONLY_CANCELS, saturating=0)
    short_tick = Settings().short_tick
    return [
        Measure("cancel", "bare publish/subscribe round trip, back to back, median", median(hot), "ms"),
        *warm.judged("warm", p99=10),
        *cold.judged("cold", p99=None),
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


class _Pairs:
    """Cancels, and bare round trips made in turn with them, in ms."""

    def __init__(self) -> None:
        self.cancels: list[float] = []
        self.trips: list[float] = []

    def judged(self, pace: str, *, p99: float | None) -> list[Measure]:
        trip = median(self.trips)
        note = f"{median(self.cancels) / trip:.2f} x the bare round trip"
        longest = quantile(self.cancels, 0.99)
        beside = f"{longest / quantile(self.trips, 0.99):.2f} x the bare round trip"
        late = Measure("cancel", f"Redis, {pace}, p99", longest, "ms", note=beside)
        what = f"bare publish/subscribe round trip, {pace}"
        return [
            Measure("cancel", f"{what}, median", trip, "ms"),
            Measure("cancel", f"{what}, p99", quantile(self.trips, 0.99), "ms"),
            at_most(
                Measure("cancel", f"Redis, {pace}, median", median(self.cancels), "ms", note=note),
                round(3 * trip, 3),
            ),
            late if p99 is None else at_most(late, p99),
        ]


async def _compared(url: str, bare: _BareRoundTrips, pairs: _Pairs, pauses: Sequence[float]) -> None:
    async with worker_pair(url, saturating=0) as (owner, other):
        for number, pause in enumerate(pauses):
            pairs.cancels.append(await cancel_elsewhere(owner, other, number, pause=pause))
            await asyncio.sleep(max(QUIET, pause))
            pairs.trips.append(await bare.trip())


async def _cancels(url: str | None, count: int, *, saturating: int) -> list[float]:
    async with worker_pair(url, saturating=saturating) as (owner, other):
        return [await cancel_elsewhere(owner, other, number) for number in range(count)]


@asynccontextmanager
async def worker_pair(
    url: str | None, *, saturating: int, program: str = "bench.worker"
) -> AsyncGenerator[tuple[WorkerProcess, WorkerProcess]]:
    with tempfile.TemporaryDirectory() as folder:
        store = f"sqlite:///{Path(folder) / 'runs.db'}"
        async with workers(2 + saturating, store, url, program=program) as (owner, other, *busy):
            for worker in busy:
                await worker.call("saturate", at_once=20)
            if url is not None:
                await asyncio.sleep(0.5)  # until both are subscribed
            yield owner, other


async def cancel_elsewhere(
    owner: WorkerProcess, other: WorkerProcess, number: int, *, pause: float = 0
) -> float:
    """Returns ms. The run is cancelled `pause` s after it has begun."""
    run_id = await owner.call("hold", thread=f"thread-{number}")
    if pause:
        await asyncio.sleep(pause)
    began, _ = await other.call("cancel", run=run_id)
    return (await owner.call("stopped", run=run_id) - began) * 1000


class _BareRoundTrips:
    def __init__(self, client: Any, messages: Any) -> None:
        self._client, self._messages = client, messages

    async def trip(self) -> float:
        """Publishes to the other process and returns the ms until its answer is here."""
        began = time.monotonic()
        await self._client.publish("ping", sent := repr(began).encode())
        while (await anext(self._messages))["data"] != sent:
            pass
        return (time.monotonic() - began) * 1000


@asynccontextmanager
async def _round_trips(url: str) -> AsyncGenerator[_BareRoundTrips]:
    context = multiprocessing.get_context("spawn")
    echo = context.Process(target=_echo, args=(url,), daemon=True)
    echo.start()
    client = connect(url)
    try:
        async with client.pubsub() as subscription:
            await subscription.subscribe("pong")
            while await client.publish("ping", "0") == 0:  # noqa: ASYNC110 - another process subscribes
                await asyncio.sleep(0.02)
            yield _BareRoundTrips(client, subscription.listen())
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
