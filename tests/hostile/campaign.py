"""Sends hostile requests to a server, and looks what became of it."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from coordinator.gateway import key_file
from coordinator.gateway.caller import Role
from tests.hostile.requests import Hostile, Known, Operation, make
from tests.support.served import Served, served

ANSWER_WITHIN = 30.0  # s; on a machine that is busy with other tests
NO_HEAD = "no answer"
"""The connection was closed: fair to who spoke no HTTP."""
TROUBLE = ("Traceback", " ERROR ", " CRITICAL ", "Exception in ASGI", "Task exception", "never awaited")
HOLDS_NOTHING_BACK = ("Traceback (most recent", 'File "/', "site-packages", "sqlite3.", "asyncpg")
"""What an answer must not tell of the inside."""


@dataclass
class Report:
    statuses: Counter[str] = field(default_factory=Counter[str])
    failures: list[str] = field(default_factory=list[str])

    def note(self, number: int, sent: Hostile, status: str, answer: bytes) -> None:
        self.statuses[f"{sent.kind}: {status}"] += 1
        text = answer.decode("latin-1")
        told = next((word for word in HOLDS_NOTHING_BACK if word in text), None)
        if status.startswith("5") or status == "nothing in time" or told is not None:
            self.failures.append(f"#{number} {sent.kind}: {status}: {sent.sent[:300]!r} -> {text[:500]!r}")


class Target:
    """A server with several workers, and what a user of it has."""

    def __init__(self, server: Served, client: httpx.AsyncClient, known: Known) -> None:
        self.server, self._client, self.known = server, client, known
        self._workers = dict(server.workers)

    async def send(self, sent: Hostile) -> tuple[str, bytes]:
        """Its status, and the beginning of its answer. Streams are left as soon as they have begun."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        writing = asyncio.create_task(_write(writer, sent.sent))
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                answer = await reader.read(65_536)
        except ConnectionError:
            return NO_HEAD, b""
        except TimeoutError:
            return "nothing in time", b""
        finally:
            writing.cancel()
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
        head, _, _ = answer.partition(b"\r\n")
        parts = head.split(b" ", 2)
        status = parts[1].decode() if head.startswith(b"HTTP/") and len(parts) > 1 else NO_HEAD
        return status, answer

    async def check_health(self) -> list[str]:
        """What is wrong with the server."""
        found = [line for line in self.server.lines if any(word in line for word in TROUBLE)]
        for path in ("/ok", "/coordinator/health/ready"):
            answer = await self._client.get(path)
            if answer.status_code != 200:
                found.append(f"{path}: {answer.status_code} {answer.text}")
        run: Any = {"assistant_id": "agent", "input": {"steps": 2}}
        thread = (await self._client.post("/threads", json={})).json()["thread_id"]
        ended = await self._client.post(f"/threads/{thread}/runs/wait", json=run)
        if ended.status_code != 200 or ended.json().get("done") != 2:
            found.append(f"a run: {ended.status_code} {ended.text[:300]}")
        if self.server.workers != self._workers:
            found.append(f"workers: {self._workers} became {self.server.workers}")
        return found

    def memory(self) -> int:
        """Bytes that its workers hold."""
        pages = (Path(f"/proc/{pid}/statm").read_text().split()[1] for pid in self._workers.values())
        return sum(map(int, pages)) * os.sysconf("SC_PAGE_SIZE")


async def _write(writer: asyncio.StreamWriter, sent: bytes) -> None:
    """It may be answered before all of it is read."""
    with suppress(ConnectionError):
        writer.write(sent)
        await writer.drain()


@asynccontextmanager
async def target(folder: Path, *, workers: int = 2) -> AsyncGenerator[Target]:
    keys = folder / "keys.json"
    _, key = key_file.create(keys, role=Role.user, user_id="alice")
    arguments = (
        "--workers",
        str(workers),
        "--store",
        f"sqlite:///{folder / 'runs.db'}",
        "--api-keys",
        str(keys),
    )
    async with served("serve", *arguments, folder=folder) as server:
        url = await server.up()
        async with httpx.AsyncClient(
            base_url=url, headers={"x-api-key": key}, timeout=ANSWER_WITHIN
        ) as client:
            document = (await client.get("/openapi.json")).json()
            operations = tuple(
                Operation(method.upper(), path) for path, item in document["paths"].items() for method in item
            )
            kept = {"assistant_id": "agent", "on_completion": "keep"}
            ended = await client.post("/runs/wait", json=kept)
            assert ended.status_code == 200, ended.text
            run = ended.headers["content-location"].split("/")
            known = Known(operations, f"127.0.0.1:{server.port}", key, run[2], run[4])
            yield Target(server, client, known)


async def attack(target: Target, *, seed: int, count: int, first: int = 0, at_once: int = 16) -> Report:
    report, numbers = Report(), iter(range(first, first + count))

    async def attacker() -> None:
        for number in numbers:
            sent = make(seed, number, target.known)
            report.note(number, sent, *await target.send(sent))

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(attacker())
    report.failures += await target.check_health()
    return report
