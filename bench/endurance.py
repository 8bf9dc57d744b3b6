"""`python -m bench.endurance`: whether the memory of a gateway stays flat under a steady load over HTTP.

One gateway with a worker, on SQLite and Redis; a client sends RATE requests per second, mixed: runs that are
created and waited for, streams, lists, and cancels. The state of the mix is bounded: each thread is deleted
after its last run, so that neither the store nor the values of a thread grow. Prints the memory of the
gateway's processes every minute and, at the end, its slope after the first quarter: finished runs fill the
memory for KEEP, and the store for twice as long.

MINUTES (60), RATE (requests/s, 80), KEEP (s for which finished records stay in memory, 60).
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from bench.cpu import cpu_seconds, process_tree
from bench.gateway import serving
from bench.http import Connection, connected
from bench.memory import memory_of
from coordinator.servers.process import free_port
from coordinator.servers.valkey import ValkeyServer

MINUTES = float(os.environ.get("MINUTES", "60"))
RATE = float(os.environ.get("RATE", "80"))
KEEP = float(os.environ.get("KEEP", "60"))
AT_ONCE = 64
"""Connections; a turn that finds none free is late."""
THREADS = 200
"""Threads on which runs are created again and again."""
RUNS = 50
"""Runs of such a thread; its values have an entry for each."""


Turn = Callable[[Connection], Awaitable[None]]


class Sample(NamedTuple):
    minutes: float
    requests: int
    rss: float
    """MiB, of all processes of the gateway."""
    uss: float
    cpu: float
    """CPU seconds per second since the sample before."""


class Thread:
    def __init__(self) -> None:
        self.id = str(uuid4())
        self.runs = 0
        """Runs that were created, including those that have ended."""
        self.listed = False
        """Whether a run has ended, so that the gateway knows the thread."""
        self.requests = 0
        """Requests in flight."""


class Client:
    """The requests of the mix. Each turn is one to three requests over one connection; `sent` counts them."""

    def __init__(self) -> None:
        self.sent = 0
        self._random = random.Random(1)
        self._threads = [Thread() for _ in range(THREADS)]
        self._due = time.monotonic()
        self._kinds: dict[Turn, tuple[int, int]] = {
            self._wait: (1, 40),
            self._wait_on_thread: (1, 20),
            self._stream: (3, 10),
            self._lists: (2, 15),
            self._cancel: (3, 15),
        }
        """Of each kind of turn, the number of requests and how many of 100 turns are of it."""

    async def turn(self, connection: Connection) -> None:
        """The next turn of the schedule, when it is due or as soon after that as a connection was free."""
        weights = [weight for _, weight in self._kinds.values()]
        (kind,) = self._random.choices(list(self._kinds), weights)
        due, requests = self._due, self._kinds[kind][0]
        self._due += requests / RATE
        await asyncio.sleep(max(due - time.monotonic(), 0))
        await kind(connection)
        self.sent += requests

    async def _wait(self, connection: Connection) -> None:
        await connection.call("POST", "/runs/wait", {"assistant_id": "agent", "input": {}})

    async def _wait_on_thread(self, connection: Connection) -> None:
        at = self._random.randrange(THREADS)
        thread = self._threads[at]
        thread.runs += 1
        if thread.runs == RUNS:
            self._threads[at] = Thread()
        await self._on_thread(connection, thread, "POST", "runs/wait", _run(steps=1))
        thread.listed = True

    async def _stream(self, connection: Connection) -> None:
        thread = str(uuid4())
        run = await connection.call("POST", f"/threads/{thread}/runs", _run(steps=5, sleep=0.02))
        path = f"/threads/{thread}/runs/{run['run_id']}/stream?stream_mode=values"
        async for _ in connection.lines(path, Last_Event_ID="-1"):
            pass
        await connection.call("DELETE", f"/threads/{thread}")

    async def _lists(self, connection: Connection) -> None:
        await connection.call("POST", "/threads/search", {"limit": 10})
        thread = self._random.choice(self._threads)
        if thread.listed:
            await self._on_thread(connection, thread, "GET", "runs?limit=10")

    async def _on_thread(
        self, connection: Connection, thread: Thread, method: str, path: str, body: object = None
    ) -> None:
        """Deletes the thread after the last request, if all its runs were created."""
        thread.requests += 1
        await connection.call(method, f"/threads/{thread.id}/{path}", body)
        thread.requests -= 1
        if thread.runs == RUNS and not thread.requests:
            await connection.call("DELETE", f"/threads/{thread.id}")
            self.sent += 1

    async def _cancel(self, connection: Connection) -> None:
        thread = str(uuid4())
        run = (await connection.call("POST", f"/threads/{thread}/runs", _run(steps=1, sleep=600)))["run_id"]
        await connection.call("POST", f"/threads/{thread}/runs/{run}/cancel?wait=1")
        await connection.call("DELETE", f"/threads/{thread}")


def _run(**options: float) -> dict[str, object]:
    """`enqueue`: several connections may use one thread."""
    return {
        "assistant_id": "agent",
        "input": {**options, "tag": "x"},
        "if_not_exists": "create",
        "multitask_strategy": "enqueue",
        "stream_resumable": True,
    }


async def measure() -> list[Sample]:
    """A sample at the start, and one each minute."""
    port = free_port()
    program = str(Path(sys.executable).with_name("coordinator"))
    with ValkeyServer() as server, tempfile.TemporaryDirectory() as folder:
        store = f"sqlite:///{Path(folder) / 'runs.db'}"
        options = ("--port", str(port), "--workers", "1", "--store", store, "--redis", server.url)
        env = {
            **os.environ,
            "COORDINATOR_KEEP_FINISHED": str(KEEP),
            "COORDINATOR_KEEP_RUNS": str(2 * KEEP),
            "COORDINATOR_PRUNE": str(KEEP),
        }
        async with serving(port, program, "serve", *options, env=env) as pid:
            client = Client()
            load = asyncio.create_task(_load(client, port))
            try:
                return await _sampled(client, pid, load)
            finally:
                load.cancel()


async def _sampled(client: Client, pid: int, load: asyncio.Task[None]) -> list[Sample]:
    samples = list[Sample]()
    began = last = time.monotonic()
    spent = cpu_seconds(process_tree(pid))
    for minute in itertools.count():
        pids = process_tree(pid)
        memory = [memory_of(one) for one in pids]
        now, cpu = time.monotonic(), cpu_seconds(pids)
        share = (cpu - spent) / max(now - last, 1e-9) if samples else 0.0
        rss, uss = (sum(one[which] for one in memory) / 1024 for which in (0, 2))
        samples.append(Sample((now - began) / 60, client.sent, rss, uss, share))
        last, spent = now, cpu
        print(
            "{:6.1f} min  {:8,} requests  RSS {:7.1f} MiB  USS {:7.1f} MiB  CPU {:4.0%}".format(*samples[-1]),
            flush=True,
        )
        if minute >= MINUTES:
            return samples
        await asyncio.wait([load], timeout=min(MINUTES - minute, 1) * 60)
        if load.done():
            load.result()
    raise AssertionError


async def _load(client: Client, port: int) -> None:
    """Turns over AT_ONCE connections; ends with the first error."""

    async def on_connection() -> None:
        async with connected(port) as connection:
            while True:
                await client.turn(connection)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(on_connection())


def slope(samples: Sequence[Sample]) -> tuple[float, float]:
    """KiB per minute of RSS and of USS after the first quarter, by least squares."""
    later = [sample for sample in samples if sample.minutes >= samples[-1].minutes / 4]
    minutes = [sample.minutes for sample in later]
    rss, uss = (
        statistics.linear_regression(minutes, [sample[which] * 1024 for sample in later]).slope
        for which in (2, 3)
    )
    return rss, uss


def main() -> None:
    samples = asyncio.run(measure())
    if len(samples) < 4:
        return
    rss, uss = slope(samples)
    pace = samples[-1].requests / samples[-1].minutes
    print(
        f"after the first quarter: RSS {rss:+.0f} KiB/min, USS {uss:+.0f} KiB/min,"
        f" {uss / pace * 10_000:+.0f} KiB per 10,000 requests"
    )


if __name__ == "__main__":
    main()
