"""Sends hostile requests and bytes to a server, then checks the server."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from coordinator.gateway import key_file
from coordinator.gateway.caller import Role
from tests.hostile.connections import BENT, Outcome, Plan, carry_out, plan
from tests.hostile.measures import Lag, descriptors, memory
from tests.hostile.requests import Hostile, Known, Operation, make
from tests.support.served import Served, served

SLOW = 1.0  # s
NO_ERROR_OF_THE_APP = frozenset({"501", "505"})
"""A store that this server does not have, HTTP of another version: no errors of the server, although the
status is 5xx."""
ANSWER_WITHIN = 30.0  # s; on a machine that is busy with other tests
KEEPS_LITTLE: Any = {"COORDINATOR_KEEP_FINISHED": "5", "COORDINATOR_KEEP_FINISHED_MAX": "100"}
"""Of finished runs in memory: what workers hold afterwards is then what requests have left."""
BAD = ("nothing in time",)
NO_HEAD = "no answer"
"""The connection was closed, which is allowed if the client did not send HTTP."""
TROUBLE = ("Traceback", " ERROR ", " CRITICAL ", "Exception in ASGI", "Task exception", "never awaited")
INTERNALS = ("Traceback (most recent", 'File "/', "site-packages", "sqlite3.", "asyncpg")
"""Internal details that a response must not contain."""


@dataclass
class Report:
    statuses: Counter[str] = field(default_factory=Counter[str])
    failures: list[str] = field(default_factory=list[str])
    slowest: float = 0.0
    """The longest time (s) until a response began, less the lag of this process."""
    slow: list[str] = field(default_factory=list[str])
    """The requests whose response took longer than `SLOW`."""

    def note(self, number: int, sent: Hostile, status: str, answer: bytes, took: float) -> None:
        what = f"#{number} {sent.kind}: {status}: {sent.sent[:300]!r}"
        self._count(sent.kind, [status], answer, what, took)

    def note_bytes(self, number: int, made: Plan, outcome: Outcome, took: float) -> None:
        sent = b"".join(made.pieces)
        what = f"#b{number} {made.kind}: {outcome.statuses}: {sent[:300]!r}"
        nothing = BAD[0] if made.whole else NO_HEAD
        self._count(made.kind, outcome.statuses or [nothing], outcome.text, what, took)
        order = [made.answers.index(one) for one in outcome.ids if one in made.answers]
        missing = made.whole and order != [*range(len(order))]
        if made.kind == BENT and any(f"Request-Id: {one}\r\n".encode() not in sent for one in made.answers):
            return  # a request id was changed, perhaps into that of another request
        if len(outcome.statuses) > len(made.answers) + 1 or order != sorted(set(order)) or missing:
            self.failures.append(f"{what}: answers to {outcome.ids} where {made.answers[:5]} were expected")

    def _count(self, kind: str, statuses: list[str], answer: bytes, what: str, took: float) -> None:
        text = answer.decode("latin-1")
        leaked = next((word for word in INTERNALS if word in text), None)
        for status in statuses:
            self.statuses[f"{kind}: {status}"] += 1
        bad = [one for one in statuses if one in BAD or (one[0] == "5" and one not in NO_ERROR_OF_THE_APP)]
        if bad or leaked is not None:
            self.failures.append(f"{what} -> {text[:500]!r}")
        self.slowest = max(self.slowest, took)
        if took > SLOW:
            self.slow.append(f"{what}: {took:.2f} s")


class Target:
    """A server with several workers, and the resources of one user."""

    def __init__(
        self, server: Served, made: Callable[[], httpx.AsyncClient], known: Known, folder: Path
    ) -> None:
        self.server, self._made, self.known, self.folder = server, made, known, folder
        self._client = made()
        self._workers = dict(server.workers)
        # Lines that the server logs while it builds the OpenAPI document do not count as problems.
        self._begun = len(server.lines)

    async def aclose(self) -> None:
        await self._client.aclose()

    @property
    def workers(self) -> list[int]:
        return [*self._workers.values()]

    async def send(self, sent: Hostile) -> tuple[str, bytes, float]:
        """Returns the status, the beginning of the response, and the seconds from the last byte of the
        request to it. Streams are closed as soon as they have begun."""
        loop = asyncio.get_running_loop()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        began = sent_at = loop.time()

        async def write() -> None:
            nonlocal sent_at
            await _write(writer, sent.sent)
            sent_at = loop.time()

        writing, answer, status = asyncio.create_task(write()), b"", NO_HEAD
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                answer = await reader.read(65_536)
        except ConnectionError:
            """It is no answer."""
        except TimeoutError:
            status = BAD[0]
        took = loop.time() - max(began, sent_at)
        writing.cancel()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        parts = answer.partition(b"\r\n")[0].split(b" ", 2)
        if answer.startswith(b"HTTP/") and len(parts) > 1:
            status = parts[1].decode()
        return status, answer, took

    async def check_health(self) -> list[str]:
        """Returns the problems of the server."""
        problems = [
            line for line in self.server.lines[self._begun :] if any(word in line for word in TROUBLE)
        ]
        answers = {path: await self._until_good(path) for path in ("/ok", "/coordinator/health/ready")}
        problems += [
            f"{path}: {answer.status_code} {answer.text}"
            for path, answer in answers.items()
            if answer.status_code != 200
        ]
        run: Any = {"assistant_id": "agent", "input": {"steps": 2}}
        thread = (await self._client.post("/threads", json={})).json()["thread_id"]
        ended = await self._client.post(f"/threads/{thread}/runs/wait", json=run)
        if ended.status_code != 200 or ended.json().get("done") != 2:
            problems.append(f"a run: {ended.status_code} {ended.text[:300]}")
        if self.server.workers != self._workers:
            problems.append(f"workers: {self._workers} became {self.server.workers}")
        return problems

    async def _until_good(self, path: str) -> httpx.Response:
        """Returns the last response. A worker of a busy machine may be unready for some ticks after
        an attack, not for as long as `ANSWER_WITHIN`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_WITHIN):
                while (answer := await self._client.get(path)).status_code != 200:  # noqa: ASYNC110 - polls HTTP
                    await asyncio.sleep(0.05)
                return answer
        return await self._client.get(path)

    def memory(self) -> int:
        """Returns the memory (bytes) of its workers."""
        return memory(self.workers)

    async def without_connections(self) -> Counter[str]:
        """Returns the descriptors of its workers without any client, including this one: the minimum of some
        seconds, because a worker may reopen its store."""
        await self._client.aclose()
        self._client = self._made()
        seen: list[Counter[str]] = []
        for _ in range(25):
            await asyncio.sleep(0.2)  # the pace of the samples
            seen.append(descriptors(self.workers))
        return min(seen, key=lambda one: one.total())


async def _write(writer: asyncio.StreamWriter, sent: bytes) -> None:
    """Writes a request; the response may be sent before all of it is read."""
    with suppress(ConnectionError):
        writer.write(sent)
        await writer.drain()


@asynccontextmanager
async def target(
    folder: Path, *, workers: int = 2, limit: tuple[int, int] | None = None
) -> AsyncGenerator[Target]:
    """Starts the target. `limit`: soft and hard limit of its descriptors."""
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
    async with served("serve", *arguments, folder=folder, descriptors=limit, **KEEPS_LITTLE) as server:
        url = await server.up()

        def made() -> httpx.AsyncClient:
            return httpx.AsyncClient(base_url=url, headers={"x-api-key": key}, timeout=ANSWER_WITHIN)

        async with made() as client:
            document = (await client.get("/openapi.json")).json()
            operations = tuple(
                Operation(method.upper(), path) for path, item in document["paths"].items() for method in item
            )
            kept = {"assistant_id": "agent", "on_completion": "keep"}
            ended = await client.post("/runs/wait", json=kept)
            assert ended.status_code == 200, ended.text
            run = ended.headers["content-location"].split("/")
        known = Known(operations, f"127.0.0.1:{server.port}", key, run[2], run[4])
        attacked = Target(server, made, known, folder)
        try:
            yield attacked
        finally:
            await attacked.aclose()


async def attack(
    target: Target, *, seed: int, count: int, first: int = 0, of_bytes: int = 0, at_once: int = 16
) -> Report:
    """`count` requests from number `first` on, and then as many connections of the byte half."""
    report = Report()
    async with Lag().measured() as lag:

        async def request(number: int) -> None:
            sent = make(seed, number, target.known)
            began = asyncio.get_running_loop().time()
            status, answer, took = await target.send(sent)
            report.note(number, sent, status, answer, took - lag.since(began))

        async def connect(number: int) -> None:
            made = plan(seed, number, target.known)
            began = asyncio.get_running_loop().time()
            outcome = await carry_out(made, target.server.port)
            report.note_bytes(number, made, outcome, outcome.waited - lag.since(began))

        await _each(request, range(first, first + count), at_once)
        await _each(connect, range(first, first + of_bytes), 2 * at_once)  # most of them only wait
    report.failures += await target.check_health()
    return report


async def _each(work: Callable[[int], Awaitable[None]], numbers: range, at_once: int) -> None:
    left = iter(numbers)

    async def attacker() -> None:
        for number in left:
            await work(number)

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(attacker())


async def flood(target: Target, size: int) -> tuple[int, int]:
    """Sends endless trailers of an answered request. Returns how many bytes the server read, and the maximal
    growth of its workers' memory. Unread bytes stay in the send buffer of this process, which is kept
    small."""
    head = b"GET /ok HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
    block, sent, most = b"a: xxxxxxxx\r\n" * 1000, 0, 0
    loop, before = asyncio.get_running_loop(), target.memory()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
        client.setblocking(False)
        await loop.sock_connect(client, ("127.0.0.1", target.server.port))
        await loop.sock_sendall(client, head)
        await loop.sock_recv(client, 4096)
        try:
            while sent < size:
                await loop.sock_sendall(client, block)
                sent += len(block)
                most = max(most, target.memory() - before)
        except OSError:
            """It was cut."""
    return sent, most
