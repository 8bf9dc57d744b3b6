"""The cost of one malicious request: bodies of mistakes, and searches of many threads.

The former are answered in this process, whose event loop reports how long it was blocked; the latter by a
server of its own, while another user's requests are timed.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx

from bench.databases import answer_of, fresh_database, running_server, scaled
from bench.gateway import serving
from bench.report import Measure, at_most, quantile
from coordinator import RunManager, Settings
from coordinator.assistants.demo import agent
from coordinator.gateway import create_gateway
from coordinator.servers.process import free_port

BODY = 4 << 20
MIB = 1 << 20
THREADS = scaled(100_000)
PROBES = 400
DEADLINE = 2.0
ALONE, BUSY = "alone", "beside a search"


async def run(rounds: int) -> list[Measure]:
    return [*await _mistakes(rounds), *await _on_sqlite(rounds), *await _on_postgres(rounds)]


# -- mistakes


def _bodies() -> dict[str, tuple[str, bytes]]:
    ones = b",".join([b"1"] * ((BODY - 200) // 2))
    updates = b",".join([b"{}"] * 1000)
    steps = b",".join([b'{"updates":[' + updates + b"]}"] * (BODY // 3020))
    texts = b",".join([b'"abcdefghijklmnopq"'] * 195_000)
    run = b'{"assistant_id":"agent",'
    return {
        "goto": ("/runs", run + b'"command":{"goto":[' + ones + b"]}}"),
        "tags": ("/runs", run + b'"config":{"tags":[' + ones + b"]}}"),
        "values": ("/threads/{thread}/state", b'{"values":[' + ones + b"]}"),
        "supersteps": ("/threads", b'{"supersteps":[' + steps + b"]}"),
        "as many values as may be": ("/runs", run + b'"command":{"goto":[' + ones[:390_000] + b"1]}}"),
        "as many texts as may be": ("/runs", run + b'"config":{"tags":[1,' + texts + b"]}}"),
        "objects": ("/threads/{thread}/state", b'{"values":[1,' + b"{}," * 99_000 + b"{}]}"),
        "digits": ("/threads", b'{"metadata":[' + (b"1" * 308 + b",") * 13_000 + b"1]}"),
        "commas in texts": ("/threads", b'{"metadata":["' + b"," * (BODY - 100) + b'"]}'),
        "quotes in texts": ("/threads", b'{"metadata":["' + b'\\"' * (BODY // 2 - 100) + b'"]}'),
        "an endless text": ("/threads", b'{"metadata":["' + b',\\"' * (BODY // 3 - 100)),
    }


class _Turns:
    """The longest turn of the event loop (ms), and what it has worked in one."""

    def __init__(self) -> None:
        self.longest = self.worked = 0.0

    async def watch(self) -> None:
        last, worked = time.perf_counter(), time.thread_time()
        while True:
            await asyncio.sleep(0)
            now, work = time.perf_counter(), time.thread_time()
            self.longest = max(self.longest, (now - last) * 1000)
            self.worked = max(self.worked, (work - worked) * 1000)
            last, worked = now, work


async def _mistakes(rounds: int) -> list[Measure]:
    measures: list[Measure] = []
    gateway = create_gateway(RunManager(settings=Settings(grace=0)), {"agent": agent})
    transport = httpx.ASGITransport(gateway)
    headers = {"content-type": "application/json"}
    async with (
        gateway.running(),
        httpx.AsyncClient(transport=transport, base_url="http://localhost:2024", headers=headers) as client,
    ):
        thread = (await client.post("/threads", json={})).json()["thread_id"]
        for what, (path, body) in _bodies().items():
            held, worked, size, status = list[float](), list[float](), 0, 0
            for _ in range(rounds + 1):
                turns = _Turns()
                watching = asyncio.ensure_future(turns.watch())
                await asyncio.sleep(0.01)  # it has begun
                answer = await client.post(path.format(thread=thread), content=body)
                await asyncio.sleep(0.01)  # it sees the end of the last turn
                watching.cancel()
                held.append(turns.longest)
                worked.append(turns.worked)
                size, status = len(answer.content), answer.status_code
            note = (
                f"{len(body) / MIB:.1f} MiB, answered {status} with {size} bytes; worked {min(worked):.1f} ms"
            )
            assert size <= 64 << 10, note
            measure = Measure("requests", f"mistakes, {what}: loop held", min(held[1:]), "ms", note=note)
            measures.append(at_most(measure, 50))
    return measures


# -- searches


FILTERS: dict[str, Any] = {
    "all match": {"metadata": {"abc": [{"a": 1}]}},
    "the costliest": {"metadata": {"abc": [{"b": number} for number in range(20)]}},
    "values": {"values": {"abc": [0.5, {"b": 1}]}},
}
METADATA = json.dumps({"abc": [{"a": 1}] * 40, "x": 0.5}, separators=(",", ":"))


async def _on_sqlite(rounds: int) -> list[Measure]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "runs.db"
        async with _server(f"sqlite:///{path}") as port:
            pass
        with closing(sqlite3.connect(path)) as cx, cx:
            cx.execute(
                "WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < ?)"
                ' INSERT INTO threads (thread_id, fence, metadata, "values", created_at, updated_at)'
                " SELECT 'many ' || x, 0, ?, ?, x, x FROM c",
                (THREADS, METADATA, METADATA),
            )
        async with _server(f"sqlite:///{path}") as port:
            return await _searches("SQLite", port, rounds)


async def _on_postgres(rounds: int) -> list[Measure]:
    with running_server() as server:
        async with fresh_database(server) as url, _server(url) as port:
            version: str = await answer_of(url, "SHOW server_version")
            await answer_of(
                url,
                'INSERT INTO coordinator.threads (thread_id, fence, metadata, "values", created_at,'
                " updated_at) SELECT 'many ' || x, 0, $1, $1, x, x FROM generate_series(1, $2::bigint) x",
                METADATA,
                THREADS,
            )
            await answer_of(url, "ANALYZE coordinator.threads")
            return await _searches(f"PostgreSQL {version.split(maxsplit=1)[0]}", port, rounds)


@asynccontextmanager
async def _server(store: str) -> AsyncGenerator[int]:
    port, program = free_port(), str(Path(sys.executable).with_name("coordinator"))
    async with serving(port, program, "serve", "--port", str(port), "--workers", "1", "--store", store):
        yield port


async def _searches(where: str, port: int, rounds: int) -> list[Measure]:
    measures: list[Measure] = []
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        thread = (await client.post("/threads", json={})).json()["thread_id"]
        for what, body in FILTERS.items():
            took, alone, beside, statuses = list[float](), list[float](), list[float](), set[int]()
            for _ in range(rounds):
                alone += await _probe(client, thread, None)
                search = asyncio.ensure_future(_search(client, body, took, statuses))
                beside += await _probe(client, thread, search)
                await search
            answers = ", ".join(map(str, sorted(statuses)))
            note = f"answered {answers}; others alone {quantile(alone, 0.99):.1f} ms"
            ratio = quantile(beside, 0.99) / quantile(alone, 0.99)
            name = f"{where}, {THREADS:,} threads, {what}"
            measures.append(at_most(Measure("requests", f"{name}: search", max(took), "s", note=note), 2.5))
            measures.append(at_most(Measure("requests", f"{name}: p99 of others", ratio, "x"), 2))
    return measures


async def _search(client: httpx.AsyncClient, body: Any, took: list[float], statuses: set[int]) -> None:
    for path in ("/threads/search", "/threads/count"):
        began = time.perf_counter()
        answer = await client.post(path, json=body)
        took.append(time.perf_counter() - began)
        statuses.add(answer.status_code)


async def _probe(client: httpx.AsyncClient, thread: str, until: asyncio.Future[None] | None) -> list[float]:
    durations: list[float] = []
    while len(durations) < PROBES if until is None else not until.done():
        began = time.perf_counter()
        (await client.get(f"/threads/{thread}")).raise_for_status()
        durations.append((time.perf_counter() - began) * 1000)
    return durations
