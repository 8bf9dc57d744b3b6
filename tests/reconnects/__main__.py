"""Clients of threads that come back again and again, while workers are killed: `make reconnects`
(RECONNECTS=1000).

Each client follows a thread by the streaming protocol, over server-sent events or a WebSocket, breaks the
connection off at a random moment, and continues behind its last event at a random worker. Every two seconds a
worker is killed, with its runs, and another one begins. Exits with 1 if a client lacks an event that the logs
have, has one twice, or has them in another order.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from coordinator.servers.postgres import PostgresServer
from coordinator.servers.valkey import ValkeyServer
from tests.support.gateway_processes import GatewayProcess, start_process
from tests.support.teams import QUICK

WORKERS, THREADS, CLIENTS = 3, 4, 3
"""`CLIENTS` of each thread."""
PERIOD = 2.0
"""Seconds between two kills."""
LONGEST = 0.4
"""Seconds for which a client stays connected at most."""
CHANNELS = ["custom", "values", "lifecycle", "input"]
BEGIN = 1
"""A place before all others: all that is kept is behind it."""
FAULTS = ("lost", "doubled", "out of order", "out of order in the logs")
BROKEN = (httpx.HTTPError, OSError, WebSocketException, EOFError, TimeoutError)


@dataclass
class Client:
    thread: str
    over_socket: bool
    seqs: list[int] = field(default_factory=list[int])
    gaps: int = 0

    @property
    def since(self) -> int:
        return self.seqs[-1] if self.seqs else BEGIN

    def take(self, frame: dict[str, Any]) -> None:
        if frame["type"] == "event":
            self.seqs.append(frame["seq"])
        elif frame["type"] == "error":
            self.gaps += frame["error"] == "resume_gap"


class Fleet:
    """Workers, of which one is killed at a time."""

    def __init__(self, stack: AsyncExitStack, settings: dict[str, Any]) -> None:
        self._stack, self._settings = stack, settings
        self.workers: list[GatewayProcess] = []
        self.kills = 0

    async def begin(self) -> None:
        given = {**QUICK, **self._settings}
        self.workers.append(await start_process(self._stack, given, "tests.reconnects.agents"))

    async def kill_in_turn(self) -> None:
        while True:
            await asyncio.sleep(PERIOD)
            victim = self.workers.pop(random.randrange(len(self.workers)))
            await victim.kill()
            self.kills += 1
            await self.begin()

    def url(self) -> str:
        return random.choice(self.workers).url


async def frames_of(client: Client, url: str) -> AsyncGenerator[dict[str, Any]]:
    request = {"channels": CHANNELS, "since": client.since}
    path = f"/threads/{client.thread}/stream/events"
    if client.over_socket:
        async with connect(url.replace("http:", "ws:") + path, open_timeout=5) as socket:
            await socket.send(json.dumps({"id": 1, "method": "subscription.subscribe", "params": request}))
            while True:
                yield json.loads(await socket.recv())
    async with (
        httpx.AsyncClient(base_url=url, timeout=10) as http,
        http.stream("POST", path, json=request) as response,
    ):
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))


async def read(client: Client, url: str, seconds: float, until: int | None = None) -> None:
    """Takes what comes within that time, or up to that event."""
    with suppress(*BROKEN):
        async with asyncio.timeout(seconds), aclosing(frames_of(client, url)) as frames:
            async for frame in frames:
                client.take(frame)
                if until is not None and client.since >= until:
                    return


class Campaign:
    def __init__(self, fleet: Fleet, reconnects: int) -> None:
        self._fleet, self._left = fleet, reconnects
        self.threads = [str(uuid4()) for _ in range(THREADS)]
        self.clients = [Client(one, bool(number % 2)) for one in self.threads for number in range(CLIENTS)]
        self.runs = 0

    async def follow(self, client: Client) -> None:
        while self._left > 0:
            self._left -= 1
            await read(client, self._fleet.url(), random.uniform(0.05, LONGEST))

    async def start_runs(self, thread: str) -> None:
        """One run after another is queued, as long as clients come back; at least one."""
        accepted = 0
        while self._left > 0 or not accepted:
            with suppress(*BROKEN):
                async with httpx.AsyncClient(base_url=self._fleet.url(), timeout=5) as http:
                    params: dict[str, Any] = {"assistant_id": "ticker", "input": {}}
                    body = {"id": 1, "method": "run.start", "params": params}
                    answer = await http.post(f"/threads/{thread}/commands", json=body)
                    accepted += answer.is_success
            await asyncio.sleep(0.6)
        self.runs += accepted

    async def run(self) -> None:
        await self.create()
        killing = asyncio.create_task(self._fleet.kill_in_turn())
        async with asyncio.TaskGroup() as group:
            for client in self.clients:
                group.create_task(self.follow(client))
            for thread in self.threads:
                group.create_task(self.start_runs(thread))
        killing.cancel()
        with suppress(asyncio.CancelledError):
            await killing

    async def create(self) -> None:
        async with httpx.AsyncClient(base_url=self._fleet.url(), timeout=20) as http:
            for thread in self.threads:
                (await http.post("/threads", json={"thread_id": thread})).raise_for_status()

    async def settled(self) -> None:
        """Returns when no thread has a run in flight."""
        async with httpx.AsyncClient(base_url=self._fleet.url(), timeout=20) as http:
            until = time.monotonic() + 120
            for thread in self.threads:
                while (await http.get(f"/threads/{thread}")).json()["status"] == "busy":
                    if time.monotonic() > until:
                        raise TimeoutError(f"thread {thread} is busy")
                    await asyncio.sleep(0.2)

    async def judged(self) -> Counter[str]:
        """Compares what each client has with what a new one gets from the logs."""
        counts = Counter[str]()
        for thread in self.threads:
            whole = Client(thread, over_socket=False)
            async with asyncio.timeout(60):
                while not whole.seqs:  # a busy machine may answer late
                    await read(whole, self._fleet.url(), 6)
            kept = set(whole.seqs)
            counts["events"] += len(kept)
            counts["out of order in the logs"] += whole.seqs != sorted(kept)
            for client in self.clients:
                if client.thread != thread:
                    continue
                with suppress(TimeoutError):
                    async with asyncio.timeout(30):
                        while client.since < max(kept):
                            await read(client, self._fleet.url(), 20, until=max(kept))
                counts["lost"] += len(kept - set(client.seqs))
                counts["doubled"] += len(client.seqs) - len(set(client.seqs))
                counts["out of order"] += client.seqs != sorted(client.seqs)
                counts["before the death of their worker alone"] += len(set(client.seqs) - kept)
                counts["gaps"] += client.gaps
        return counts


@asynccontextmanager
async def settings_of(store: str, folder: Path) -> AsyncGenerator[dict[str, Any]]:
    if store == "postgres":
        with PostgresServer() as server:
            yield {"store": server.url(), "redis": None, "namespace": "reconnects"}
    else:
        with ValkeyServer() as valkey:
            yield {"store": f"sqlite:///{folder}/runs.db", "redis": valkey.url, "namespace": "reconnects"}


async def campaign(store: str, reconnects: int) -> bool:
    """Prints figures. Returns whether all is as it must be."""
    with tempfile.TemporaryDirectory() as name:
        async with settings_of(store, Path(name)) as settings, AsyncExitStack() as stack:
            fleet = Fleet(stack, settings)
            await asyncio.gather(*(fleet.begin() for _ in range(WORKERS)))
            one = Campaign(fleet, reconnects)
            began = time.monotonic()
            await one.run()
            took = time.monotonic() - began
            await one.settled()
            counts = await one.judged()
    figures = {"reconnects": reconnects, "kills": fleet.kills, "runs": one.runs, **counts}
    text = ", ".join(f"{name}: {value}" for name, value in figures.items())
    sys.stdout.write(f"{store}, {took:.0f} s: {text}\n")
    return not any(counts[name] for name in FAULTS)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.reconnects")
    parser.add_argument("--store", choices=("sqlite", "postgres", "both"), default="both")
    parser.add_argument("--reconnects", type=int, default=1000)
    given = parser.parse_args(arguments)
    stores = ("sqlite", "postgres") if given.store == "both" else (given.store,)
    right = [asyncio.run(campaign(store, given.reconnects)) for store in stores]
    return 0 if all(right) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
