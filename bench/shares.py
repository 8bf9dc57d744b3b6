"""What one user can take from another: webhooks to receivers that hang, names that do not resolve, streams.

A gateway with API keys as `coordinator serve` starts it. Names are looked up by a resolver of the bench's
own, so that part runs in this process.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

from bench.gateway import serving
from bench.http import Connection, connected
from bench.report import Measure, at_most
from coordinator import RunContext, RunManager
from coordinator.gateway import key_file
from coordinator.gateway.caller import Role
from coordinator.servers.process import free_port
from coordinator.webhooks.deliverer import Deliverer
from coordinator.webhooks.lookups import Lookups
from coordinator.webhooks.settings import WebhookSettings
from coordinator.webhooks.targets import Targets
from stores.memory import MemoryStore

RECEIVERS, WEBHOOKS = 60, 180
NAMES = 60
RESOLVER_GIVES_UP = 10.0  # s; two attempts of 5 s, as glibc does
STREAMS = 2_000
WITHIN = 3.0  # s; another user's webhook
GIVEN_UP = 60.0  # s


async def run(rounds: int) -> list[Measure]:
    del rounds
    with tempfile.TemporaryDirectory() as folder:
        async with _gateway(Path(folder)) as (port, alice, bob):
            webhooks = await _webhooks(port, alice, bob)
            streams = await _streams(port, alice, bob)
    return [*webhooks, *await _names(), *streams]


@asynccontextmanager
async def _gateway(folder: Path) -> AsyncGenerator[tuple[int, str, str]]:
    """Its port, and the keys of two users."""
    port, keys = free_port(), folder / "keys.json"
    alice, bob = (key_file.create(keys, role=Role.user, user_id=user)[1] for user in ("alice", "bob"))
    program = str(Path(sys.executable).with_name("coordinator"))
    options = ("--port", str(port), "--workers", "1", "--store", f"sqlite:///{folder / 'runs.db'}")
    env = {**os.environ, "COORDINATOR_WEBHOOK_ALLOW_PRIVATE": "true", "COORDINATOR_API_KEYS": str(keys)}
    async with serving(port, program, "serve", *options, env=env):
        yield port, alice, bob


# -- webhooks


class _Receiver:
    """Answers at once, or never."""

    def __init__(self, *, hangs: bool) -> None:
        self._hangs = hangs
        self.connections = 0
        self.arrived = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            self.arrived.set()
            if self._hangs:
                await reader.read()
                await reader.read()
            writer.write(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
            await writer.drain()
        writer.close()


async def _webhooks(port: int, alice: str, bob: str) -> list[Measure]:
    hangs, quick = _Receiver(hangs=True), _Receiver(hangs=False)
    async with AsyncExitStack() as stack:
        there = free_port()
        for number in range(RECEIVERS):
            server = await asyncio.start_server(hangs, f"127.0.1.{number + 1}", there)
            stack.callback(server.close)
        server = await asyncio.start_server(quick, "127.0.0.1", 0)
        stack.callback(server.close)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        alices = await stack.enter_async_context(connected(port, x_api_key=alice))
        bobs = await stack.enter_async_context(connected(port, x_api_key=bob))
        alone = await _delivered(bobs, url, quick)
        for number in range(WEBHOOKS):
            receiver = f"http://127.0.1.{number % RECEIVERS + 1}:{there}/"
            await alices.call("POST", "/runs", {"assistant_id": "agent", "webhook": receiver})
        await asyncio.sleep(2)
        beside = await _delivered(bobs, url, quick)
        note = f"{hangs.connections} attempts of alices are open"
    what = f"bob's webhook beside {WEBHOOKS} of alice to {RECEIVERS} receivers that hang"
    return [
        Measure("shares", "bob's webhook, from the request to the receiver, alone", alone, "s"),
        at_most(Measure("shares", what, beside, "s", note=note), WITHIN),
    ]


async def _delivered(bobs: Connection, url: str, receiver: _Receiver) -> float:
    """Seconds, at most GIVEN_UP."""
    receiver.arrived.clear()
    began = time.perf_counter()
    await bobs.call("POST", "/runs", {"assistant_id": "agent", "webhook": url})
    with suppress(TimeoutError):
        async with asyncio.timeout(GIVEN_UP):
            await receiver.arrived.wait()
    return time.perf_counter() - began


# -- names


def _resolve(host: str, port: int) -> list[str]:
    del port
    if host.startswith("slow"):
        time.sleep(RESOLVER_GIVES_UP)
        raise OSError("timed out")
    return ["127.0.0.1"]


async def _names() -> list[Measure]:
    async def agent(ctx: RunContext) -> None:
        del ctx

    quick = _Receiver(hangs=False)
    server = await asyncio.start_server(quick, "127.0.0.1", 0)
    settings = WebhookSettings(webhook_allow_private=True)
    targets = Targets(allow_private=True, lookups=Lookups(_resolve))
    async with (
        RunManager(MemoryStore(shared=True)) as manager,
        Deliverer(manager.webhooks, manager.assistants, settings, targets=targets).running(),
    ):

        async def one(user_id: str, thread: str, url: str) -> None:
            record = await manager.create_or_reject(thread, webhook=url, user_id=user_id)
            manager.launch(record, agent)

        for number in range(NAMES):
            await one("alice", f"a{number}", f"http://slow{number}.example.com/")
        await asyncio.sleep(2)
        began = time.perf_counter()
        await one("bob", "b", f"http://quick.example.com:{server.sockets[0].getsockname()[1]}/")
        with suppress(TimeoutError):
            async with asyncio.timeout(GIVEN_UP):
                await quick.arrived.wait()
        took = time.perf_counter() - began
    server.close()
    what = f"bob's webhook beside {NAMES} of alice to names whose server does not answer"
    return [at_most(Measure("shares", what, took, "s"), WITHIN)]


# -- streams


async def _streams(port: int, alice: str, bob: str) -> list[Measure]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, STREAMS + 500), hard), hard))
    async with AsyncExitStack() as stack:
        slow = {"assistant_id": "agent", "input": {"steps": 1, "sleep": 600}, "stream_resumable": True}
        async with connected(port, x_api_key=alice) as alices:
            run = await alices.call("POST", "/runs", slow)
        statuses: Counter[int] = Counter()
        request = (
            f"GET /runs/{run['run_id']}/stream HTTP/1.1\r\nHost: localhost\r\nx-api-key: {alice}\r\n\r\n"
        )

        async def one(at_once: asyncio.Semaphore) -> None:
            async with at_once:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                stack.callback(writer.close)
                writer.write(request.encode())
                statuses[int((await reader.readuntil(b"\r\n")).split()[1])] += 1

        at_once = asyncio.Semaphore(100)
        async with asyncio.TaskGroup() as group:
            for _ in range(STREAMS):
                group.create_task(one(at_once))
        measures: list[Measure] = []
        for verb in ("wait", "stream"):
            began = time.perf_counter()
            try:
                async with connected(port, x_api_key=bob) as bobs:
                    await _answered(bobs, verb)
                took = time.perf_counter() - began
            except RuntimeError as error:
                print(error, file=sys.stderr)
                took = GIVEN_UP
            what = f"bob's runs/{verb} beside {STREAMS:,} streams that alice opens"
            note = f"alices: {', '.join(f'{count} x {status}' for status, count in sorted(statuses.items()))}"
            measures.append(at_most(Measure("shares", what, took, "s", note=note), WITHIN))
        async with connected(port, x_api_key=alice) as alices:
            await alices.call("POST", f"/threads/{run['thread_id']}/runs/{run['run_id']}/cancel")
    return measures


async def _answered(bobs: Connection, verb: str) -> None:
    if verb == "wait":
        await bobs.call("POST", "/runs/wait", {"assistant_id": "agent", "input": {"steps": 1}})
        return
    run = await bobs.call("POST", "/runs", {"assistant_id": "agent", "input": {"steps": 1, "sleep": 0.1}})
    async for _ in bobs.lines(f"/runs/{run['run_id']}/stream"):
        pass
