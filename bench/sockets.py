"""Threads followed by the streaming protocol: what an open WebSocket and an event cost, and how long after an
emit another worker's stream has its first byte.

Three gateways with a worker each, on ports of their own. The first byte is that of a run at another gateway.
Of the many sockets a third follow a run of their own gateway, as clients behind a balancer do; each checks
that it has every event of its run, in order.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import httpx
from websockets.frames import Frame, Opcode

from bench.cpu import cpu_seconds, process_tree
from bench.databases import scaled
from bench.gateway import serving
from bench.memory import memory_of
from bench.report import Measure, at_most, median, quantile
from coordinator import RunContext
from coordinator.servers.process import free_port
from coordinator.servers.valkey import ValkeyServer

GATEWAYS = 3
SOCKETS = scaled(1_000)
WATCHED = 10.0
"""Seconds for which SOCKETS with an event a second each are watched."""
FIRST = 200
"""Runs of which the first event is timed."""
AT_ONCE = 50


async def emitter(ctx: RunContext) -> None:
    """Emits `events`, a second apart, each with its number and the time."""
    given: Any = ctx.input
    for number in range(given["events"]):
        if number:
            await asyncio.sleep(1.0)
        await ctx.emit("custom", {"number": number, "at": time.monotonic_ns()})


async def run(rounds: int) -> list[Measure]:
    costs: list[_Costs] = []
    late: list[float] = []
    for _ in range(rounds):
        async with _team() as team:
            late += await team.first_bytes()
            costs.append(await team.costs())
    share, alone, memory = (median(values) for values in zip(*costs, strict=True))
    what = "first byte of a thread's stream on another worker after the emit"
    paced = f"{SOCKETS:,} WebSockets on {GATEWAYS} workers, an event a second each"
    return [
        at_most(Measure("sockets", f"{what}, median", median(late), "ms"), 5),
        at_most(Measure("sockets", f"{what}, p99", quantile(late, 0.99), "ms"), 25),
        at_most(
            Measure("sockets", f"{paced}, beside the emits", share, "of a core", note=f"emits {alone:.2f}"),
            0.25 * SOCKETS / 1_000,
        ),
        at_most(Measure("sockets", f"{paced}, memory of each", memory, "kB"), 40),
    ]


class _Costs(NamedTuple):
    share: float
    alone: float
    memory: float


class _Socket(asyncio.Protocol):
    """The least that speaks WebSocket: it reads events, and checks their numbers."""

    def __init__(self, port: int, thread: str) -> None:
        self._path, self._port = f"/threads/{thread}/stream/events", port
        self._buffer = b""
        self._upgraded = False
        self.events = 0
        self.first = asyncio.Event()
        self.wrong = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(
            f"GET {self._path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nConnection: Upgrade\r\n"
            "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._upgraded:
            head, end, rest = self._buffer.partition(b"\r\n\r\n")
            if not end:
                return
            self._upgraded, self._buffer = head.startswith(b"HTTP/1.1 101"), rest
            command = {"id": 1, "method": "subscription.subscribe", "params": {"channels": ["custom"]}}
            text = json.dumps(command).encode()
            self.transport.write(Frame(Opcode.TEXT, text).serialize(mask=True))
        while (frame := self._frame()) is not None:
            self._take(json.loads(frame))

    def _frame(self) -> bytes | None:
        """Returns the next text frame. Frames of a server are not masked, and these have less than 64 KiB."""
        if len(self._buffer) < 4:
            return None
        size, start = self._buffer[1], 2
        if size == 126:
            size, start = int.from_bytes(self._buffer[2:4], "big"), 4
        if len(self._buffer) < start + size:
            return None
        frame, self._buffer = self._buffer[start : start + size], self._buffer[start + size :]
        return frame

    def _take(self, frame: dict[str, Any]) -> None:
        if frame["type"] == "event":
            payload = frame["params"]["data"]["payload"]
            self.wrong = self.wrong or payload["number"] != self.events
            self.events += 1
            self.at: int = payload["at"]
            self.late = (time.monotonic_ns() - self.at) / 1e6
            self.first.set()


class _Team:
    def __init__(self, ports: list[int], pids: list[int]) -> None:
        self._ports, self._pids = ports, pids
        self._http = httpx.AsyncClient(timeout=60)

    async def first_bytes(self) -> list[float]:
        """ms of each run."""
        late: list[float] = []
        for _ in range(FIRST):
            thread = str(uuid4())
            socket = await self._open(1, thread)
            await asyncio.sleep(0.02)  # it is subscribed
            await self._start(0, thread, events=1)
            async with asyncio.timeout(20):
                await socket.first.wait()
            late.append(socket.late)
            socket.transport.close()
        return late

    async def costs(self) -> _Costs:
        threads = [str(uuid4()) for _ in range(SOCKETS)]
        for start in range(0, SOCKETS, AT_ONCE):
            page = range(start, min(start + AT_ONCE, SOCKETS))
            await asyncio.gather(*(self._start(n % GATEWAYS, threads[n], events=3_600) for n in page))
        begun = self._memory()
        alone = await self._share()
        before, opening = self._memory(), time.monotonic()
        growth = (before - begun) / WATCHED  # of the runs themselves
        sockets: list[_Socket] = []
        for start in range(0, SOCKETS, AT_ONCE):
            page = range(start, min(start + AT_ONCE, SOCKETS))
            sockets += await asyncio.gather(*(self._open(n // GATEWAYS % GATEWAYS, threads[n]) for n in page))
            async with asyncio.timeout(60):
                await asyncio.gather(*(sockets[n].first.wait() for n in page))
        memory = self._memory() - before - growth * (time.monotonic() - opening)
        seen = [socket.events for socket in sockets]
        both = await self._share()
        got = sum(socket.events for socket in sockets) - sum(seen)
        if any(socket.wrong for socket in sockets) or not 0.8 <= got / (SOCKETS * WATCHED) <= 1.2:
            raise AssertionError(f"{got} events of {SOCKETS} sockets in {WATCHED:g} s")
        for socket in sockets:
            socket.transport.close()
        return _Costs(both - alone, alone, memory / SOCKETS)

    async def _share(self) -> float:
        """Of a core, of all gateways together."""
        began, cpu = time.monotonic(), cpu_seconds(self._tree())
        await asyncio.sleep(WATCHED)
        return (cpu_seconds(self._tree()) - cpu) / (time.monotonic() - began)

    def _tree(self) -> list[int]:
        return [one for pid in self._pids for one in process_tree(pid)]

    def _memory(self) -> float:
        return sum(memory_of(pid).uss for pid in self._tree())

    async def _open(self, gateway: int, thread: str) -> _Socket:
        port = self._ports[gateway]
        loop = asyncio.get_running_loop()
        _, socket = await loop.create_connection(lambda: _Socket(port, thread), "127.0.0.1", port)
        return socket

    async def _start(self, gateway: int, thread: str, *, events: int) -> None:
        params = {"assistant_id": "emitter", "input": {"events": events}}
        body = {"id": 1, "method": "run.start", "params": params}
        url = f"http://127.0.0.1:{self._ports[gateway]}/threads/{thread}/commands"
        answer = await self._http.post(url, json=body)
        if answer.status_code != 200 or answer.json()["type"] != "success":
            raise AssertionError(answer.text)


@asynccontextmanager
async def _team() -> AsyncGenerator[_Team]:
    program = str(Path(sys.executable).with_name("coordinator"))
    env = os.environ | {
        "COORDINATOR_MAX_STREAMS": "10000",
        "PYTHONPATH": str(Path(__file__).parent.parent),
    }
    with ValkeyServer() as redis, tempfile.TemporaryDirectory() as folder:
        store = f"sqlite:///{Path(folder) / 'runs.db'}"
        async with AsyncExitStack() as stack:
            ports, pids = [free_port() for _ in range(GATEWAYS)], list[int]()
            for port in ports:
                options = ("--port", str(port), "--workers", "1", "--store", store, "--redis", redis.url)
                more = ("--grace", "0", "--assistants", "bench.sockets:emitter")
                server = serving(port, program, "serve", *options, *more, env=env)
                pids.append(await stack.enter_async_context(server))
            yield _Team(ports, pids)
