"""The test's side of `worker_process`: start, drive, pause and kill real workers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.support.forked import ROOT, RUNS, Program, fork
from tests.support.pooler import Pooler
from tests.support.postgres import Database
from tests.support.teams import QUICK
from tests.support.waiting import wait_until

STORES = ["redis", "store only", "postgres"]
on_every_store = pytest.mark.parametrize("fleet", STORES, indirect=True)
"""Beside the others on PostgreSQL. There nothing proves a worker dead before its lease has run out: a test
of what is sooner is not for it."""
everywhere = pytest.mark.parametrize("fleet", [*STORES, "pooler"], indirect=True)
"""And behind a pooler in transaction mode."""

WORKER = Program("tests.support.worker_process:run", preload=RUNS, path=str(ROOT))


class Refused(Exception):
    """The worker answered with an error."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        super().__init__(f"{name}: {text}")


class Process(Protocol):
    """What driving a worker needs of its process; `asyncio.subprocess.Process` has it."""

    @property
    def pid(self) -> int: ...
    @property
    def returncode(self) -> int | None: ...
    @property
    def stdin(self) -> asyncio.StreamWriter | None: ...
    @property
    def stdout(self) -> asyncio.StreamReader | None: ...
    @property
    def stderr(self) -> asyncio.StreamReader | None: ...
    def kill(self) -> None: ...
    async def wait(self) -> int: ...


class WorkerProcess:
    """One worker. `events` are those that it has reported, in their order."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.complaints: list[str] = []
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._listening = asyncio.gather(self._listen(), self._read_log())
        self.events: list[dict[str, Any]] = []

    @classmethod
    async def start(cls, settings: dict[str, Any]) -> WorkerProcess:
        worker = cls(await fork(WORKER, json.dumps(settings), cwd=ROOT, limit=1 << 20))
        await worker.wait_for("ready", timeout=20)
        return worker

    @property
    def epoch(self) -> int:
        """As it was at the start."""
        return int(self.events[0]["epoch"])

    async def do(self, name: str, **arguments: Any) -> Any:
        """Call one of `worker_process.Program`'s methods. Raises Refused, ConnectionError where the
        process has ended."""
        if self._listening.done():
            raise ConnectionResetError("the worker has ended")
        number = len(self._answers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"id": number, "do": name, **arguments}).encode() + b"\n")
        async with asyncio.timeout(30):
            message = await answer
        if "error" in message:
            raise Refused(message["error"], message["text"])
        return message["ok"]

    def find_event(self, event: str, run: str | None = None) -> dict[str, Any] | None:
        """Returns the first event of this kind (and run), or None if the worker has not reported it."""
        return next((e for e in self.events if e["event"] == event and run in (None, e.get("run"))), None)

    async def wait_for(self, event: str, run: str | None = None, timeout: float = 10) -> dict[str, Any]:
        """Waits until the worker has reported such an event, and returns the first."""
        await wait_until(
            lambda: self.find_event(event, run) is not None or self._listening.done(),
            description=f"{event} {run}",
            timeout=timeout,
        )
        reported = self.find_event(event, run)
        assert reported is not None, f"the worker has ended: {''.join(self.complaints)[-3000:]}"
        return reported

    def send(self, number: signal.Signals) -> None:
        os.kill(self._process.pid, number)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def over(self) -> bool:
        return self._process.returncode is not None

    async def ended(self, within: float) -> bool:
        """Wait for the process to end by itself."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._process.wait()
        return self.over

    async def kill(self) -> None:
        """As by `kill -9`. Idempotent."""
        if self._process.returncode is None:
            self.send(signal.SIGCONT)
            self._process.kill()
        await self._process.wait()
        await self._listening

    async def leave(self) -> None:
        """Let it shut down in its own time."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        async with asyncio.timeout(20):
            await self._process.wait()
        await self._listening

    async def gone(self, timeout: float = 20) -> tuple[float, int]:
        """Wait for its end: when that came (monotonic), and its exit status."""
        async with asyncio.timeout(timeout):
            status = await self._process.wait()
        ended = time.monotonic()
        await self._listening
        return ended, status

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            message = json.loads(line)
            if "id" in message:
                if not (answer := self._answers[message["id"]]).done():  # its caller may have given up
                    answer.set_result(message)
            else:
                self.events.append(message)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(ConnectionResetError("the worker has ended"))
                answer.exception()  # retrieved, so that asyncio does not log it if no caller waits

    async def _read_log(self) -> None:
        """Keeps the log of the worker, for the message of a test that fails because it has ended."""
        while self._process.stderr is not None and (line := await self._process.stderr.readline()):
            self.complaints.append(line.decode(errors="replace"))


async def pause(worker: WorkerProcess, other: WorkerProcess) -> None:
    """Stops the worker (SIGSTOP) outside a transaction: within one it would hold up every write, also that
    which declares it dead. `other` shows by a write that it does not."""
    while True:
        worker.send(signal.SIGSTOP)
        write = asyncio.ensure_future(other.do("cancel", run="no such run"))
        done, _ = await asyncio.wait((write,), timeout=0.5)
        if not done:
            worker.send(signal.SIGCONT)
        await write
        if done:
            return


class Fleet:
    """Workers on one store. Leaving the block kills those that are left."""

    def __init__(self, settings: dict[str, Any], stack: AsyncExitStack) -> None:
        self._settings, self._stack = settings, stack

    async def start(self, **overrides: Any) -> WorkerProcess:
        worker = await WorkerProcess.start({**self._settings, **overrides})
        self._stack.push_async_callback(worker.kill)
        settings = {**self._settings, **overrides}
        listens = settings["store"].startswith("postgresql:") and settings.get("postgres_notify", True)
        if settings.get("redis") is not None or listens:
            await wait_until(lambda: is_connected(worker), description="it is subscribed")
        return worker

    async def of(self, size: int) -> list[WorkerProcess]:
        return list(await asyncio.gather(*(self.start() for _ in range(size))))


async def is_connected(worker: WorkerProcess) -> bool:
    return await worker.do("connectivity") == "connected"


@asynccontextmanager
async def fleet_on(folder: Path, redis: str | None = None, **overrides: Any) -> AsyncGenerator[Fleet]:
    settings = {**QUICK, "store": f"sqlite:///{folder / 'runs.db'}", "redis": redis, **overrides}
    async with AsyncExitStack() as stack:
        yield Fleet(settings, stack)


@asynccontextmanager
async def fleet_on_postgres(
    database: Database, *, pooler: Pooler | None = None, **overrides: Any
) -> AsyncGenerator[Fleet]:
    """The workers connect as a role with a worker's rights. Without Redis, hints travel by NOTIFY. With a
    pooler, LISTEN has a URL of its own."""
    async with database.worker() as (url, schema), AsyncExitStack() as stack:
        settings: dict[str, Any] = {**QUICK, "store": url, "postgres_schema": schema}
        if pooler is not None:
            settings |= {
                "store": pooler.through(url),
                "postgres_statement_cache": 0,
                "postgres_notify_url": url,
            }
        yield Fleet({**settings, **overrides}, stack)
