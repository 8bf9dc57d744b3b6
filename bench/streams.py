"""Streams of one gateway: what an event and an open stream cost, beside a bare StreamingResponse of FastAPI.

Both servers are processes of their own, with uvicorn, uvloop and httptools; the clients only count events.
The CPU is that of all threads of the server, so a busy machine changes it less than it changes times.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from bench.databases import scaled
from bench.report import Measure, at_most, median
from coordinator import RunContext
from coordinator.servers.process import free_port

STREAMS = scaled(1_000)
WATCHED = 10.0
"""Seconds for which STREAMS with an event a second each are watched."""
FEW, EACH, PAUSE = 20, 500, 0.005
"""Streams at once, the events of each, and the pause (s) after each event or after 100."""
OPEN = scaled(2_000)

TOKEN = {"type": "token", "content": "some words of an answer", "id": "msg-1"}

BARE = """
import asyncio, json, sys, uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

app = FastAPI()
TOKEN = {"type": "token", "content": "some words of an answer", "id": "msg-1"}

@app.post("/runs/stream")
async def stream(body: dict):
    async def events():
        given = body["input"]
        for number in range(given["events"]):
            data = json.dumps(TOKEN)
            yield f"event: custom\\r\\ndata: {data}\\r\\nid: 1-{number}\\r\\n\\r\\n".encode()
            if number % given["burst"] == 0:
                await asyncio.sleep(given["pause"])
        yield b": end\\r\\n\\r\\n"
    return StreamingResponse(events(), media_type="text/event-stream")

uvicorn.run(app, port=int(sys.argv[1]), log_level="error", access_log=False)
"""


async def emitter(ctx: RunContext) -> None:
    """Emits `events`, with a pause (s) after the first and each `burst` more."""
    given: Any = ctx.input
    for number in range(given["events"]):
        await ctx.emit("custom", TOKEN)
        if number % given["burst"] == 0:
            await asyncio.sleep(given["pause"])


async def run(rounds: int) -> list[Measure]:
    ours: list[_Costs] = []
    bare: list[_Costs] = []
    for _ in range(rounds):
        async with _gateway() as server:
            ours.append(await _costs(server))
        async with _bare() as server:
            bare.append(await _costs(server))
    share, alone, row, memory = (median(values) for values in zip(*ours, strict=True))
    floor = _Costs(*(median(values) for values in zip(*bare, strict=True)))

    def measured(what: str, value: float, unit: str, least: float) -> Measure:
        return Measure("streams", what, value, unit, note=f"bare StreamingResponse {least:.3g}")

    paced = f"{STREAMS:,} streams with an event a second each"
    return [
        at_most(measured(paced, share, "of a core", floor.share), 0.1 * STREAMS / 1_000),
        at_most(measured("an event alone", alone, "us CPU", floor.alone), 35),
        at_most(measured("an event of 100 in a row", row, "us CPU", floor.row), 35),
        at_most(measured(f"each of {OPEN:,} open streams", memory, "kB", floor.memory), 20),
    ]


class _Costs(NamedTuple):
    share: float
    alone: float
    row: float
    memory: float


class _Server(NamedTuple):
    port: int
    pid: int

    def cpu(self) -> float:
        """Seconds of CPU of the process and its children."""
        ticks = sum(sum(map(int, _stat(pid)[11:13])) for pid in _tree(self.pid))
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory(self) -> float:
        """kB."""
        return sum(int(_stat(pid)[21]) for pid in _tree(self.pid)) * os.sysconf("SC_PAGE_SIZE") / 1024


async def _costs(server: _Server) -> _Costs:
    await _burst(server, burst=1)  # warms up
    alone, row = await _burst(server, burst=1), await _burst(server, burst=100)
    before = server.memory()
    async with _streams(server, OPEN, events=2, pause=600.0, burst=1):
        memory = (server.memory() - before) / OPEN
    async with _streams(server, STREAMS, events=3_600, pause=1.0, burst=1) as clients:
        seen, cpu = sum(client.events for client in clients), server.cpu()
        await asyncio.sleep(WATCHED)
        used, seen = server.cpu() - cpu, sum(client.events for client in clients) - seen
    if not 0.8 <= seen / (STREAMS * WATCHED) <= 1.2:
        raise AssertionError(f"{seen} events of {STREAMS} streams in {WATCHED:g} s")
    return _Costs(used / WATCHED, alone, row, memory)


async def _burst(server: _Server, *, burst: int) -> float:
    """us of CPU of an event. The streams themselves are a small part of it."""
    cpu = server.cpu()
    async with _streams(server, FEW, events=EACH, pause=PAUSE, burst=burst) as clients:
        await asyncio.gather(*(client.over.wait() for client in clients))
        seen = sum(client.events for client in clients)
    if seen != FEW * EACH:
        raise AssertionError(f"{seen} of {FEW * EACH} events")
    return (server.cpu() - cpu) / seen * 1e6


class _Client(asyncio.Protocol):
    """Counts the events of a stream."""

    def __init__(self, body: bytes) -> None:
        self._body, self._tail = body, b""
        self.events = 0
        self.first, self.over = asyncio.Event(), asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(
            b"POST /runs/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(self._body), self._body)
        )

    def data_received(self, data: bytes) -> None:
        text = self._tail + data
        self.events += text.count(b"event: custom\r") - self._tail.count(b"event: custom\r")
        self._tail = text[-16:]
        if self.events:
            self.first.set()
        if text.endswith(b"\r\n0\r\n\r\n"):
            self.over.set()


@asynccontextmanager
async def _streams(
    server: _Server, count: int, *, events: int, pause: float, burst: int
) -> AsyncGenerator[list[_Client]]:
    """Opens streams, each with its first event received."""
    given = f'{{"events": {events}, "pause": {pause}, "burst": {burst}}}'
    more = '"stream_mode": "custom", "stream_resumable": true, "on_disconnect": "cancel"'
    body = f'{{"assistant_id": "emitter", "input": {given}, {more}}}'.encode()
    loop = asyncio.get_running_loop()
    clients: list[_Client] = []
    try:
        while len(clients) < count:
            some = [_Client(body) for _ in range(min(50, count - len(clients)))]
            clients += some
            for client in some:
                await loop.create_connection(lambda client=client: client, "127.0.0.1", server.port)
            async with asyncio.timeout(60):
                await asyncio.gather(*(client.first.wait() for client in some))
        yield clients
    finally:
        for client in clients:
            client.transport.close()
        await asyncio.sleep(1.0)  # the server ends the runs of clients that have disconnected


@asynccontextmanager
async def _gateway() -> AsyncGenerator[_Server]:
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(sys.executable).with_name("coordinator"))
        store = f"sqlite:///{Path(folder) / 'runs.db'}"
        port = free_port()
        options = ("--port", str(port), "--workers", "1", "--store", store, "--redis", "", "--grace", "0")
        env = {"COORDINATOR_MAX_STREAMS": "10000", "PYTHONPATH": str(Path(__file__).parent.parent)}
        async with _serving(
            port, env, program, "serve", *options, "--assistants", "bench.streams:emitter"
        ) as it:
            yield it


@asynccontextmanager
async def _bare() -> AsyncGenerator[_Server]:
    port = free_port()
    async with _serving(port, {}, sys.executable, "-c", BARE, str(port)) as it:
        yield it


@asynccontextmanager
async def _serving(port: int, env: dict[str, str], *command: str) -> AsyncGenerator[_Server]:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL, env=os.environ | env
    )
    try:
        async with asyncio.timeout(20):
            while not await _listens(port):  # noqa: ASYNC110 - another process starts
                await asyncio.sleep(0.02)
        yield _Server(port, process.pid)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()


def _tree(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    return [pid, *(each for child in children for each in _tree(int(child)))]
