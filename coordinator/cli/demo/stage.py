"""What the demo plays on: a server, a store and three worker processes; all gone when it is over."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from coordinator.cli.demo.process import Moments, WorkerProcess
from coordinator.cli.demo.server import start_postgres, start_server
from coordinator.servers.postgres import PostgresServer
from coordinator.servers.valkey import ValkeyServer

CONNECTED = "connected"
_CONNECTS_WITHIN = 10.0
_SHORT_LEASES = {"lease_ttl": 4.0, "lease_margin": 1.0, "renew": 1.0, "sweep": 1.0}
"""For a store of many hosts: there a worker is dead when its lease has run out, and not before."""


class Stage:
    """`server` is None where the user brought his own Redis, which is not the demo's to kill; `postgres`
    where the store is a file."""

    def __init__(
        self, folder: Path, server: ValkeyServer | None, redis: str, postgres: PostgresServer | None = None
    ) -> None:
        self.folder, self.server, self.redis, self.postgres = folder, server, redis, postgres
        self.moments = Moments()
        self.workers = {name: WorkerProcess(name, self.moments, folder) for name in "ABC"}
        self._threads = itertools.count(1)

    @property
    def a(self) -> WorkerProcess:
        return self.workers["A"]

    @property
    def b(self) -> WorkerProcess:
        return self.workers["B"]

    @property
    def c(self) -> WorkerProcess:
        return self.workers["C"]

    def thread(self) -> str:
        """A thread that nobody has used."""
        return f"thread-{next(self._threads)}"

    def store(self, name: str) -> dict[str, Any]:
        """Settings: a store of that name, for nobody else."""
        if self.postgres is None:
            return {"store": f"sqlite:///{self.folder / name}.db"}
        return {"store": self.postgres.url(), "postgres_schema": name, **_SHORT_LEASES}

    async def start(self) -> None:
        """Workers are registered and hear each other."""
        settings = {
            **self.store("runs"),
            "redis": self.redis,
            "namespace": f"demo-{uuid.uuid4().hex[:8]}",
            "grace": 0,
        }
        await asyncio.gather(*(worker.start(settings) for worker in self.workers.values()))
        await self.connected(_CONNECTS_WITHIN)

    async def connected(self, within: float) -> None:
        """Every living worker hears its abort channel. Raises TimeoutError."""
        async with asyncio.timeout(within):
            while True:
                alive = [worker for worker in self.workers.values() if worker.alive]
                await asyncio.gather(*(worker.refresh() for worker in alive))
                if all(worker.connectivity == CONNECTED for worker in alive):
                    return
                await asyncio.sleep(0.01)

    async def disconnected(self, within: float) -> None:
        """No living worker believes that Redis is there. Raises TimeoutError."""
        async with asyncio.timeout(within):
            while True:
                alive = [worker for worker in self.workers.values() if worker.alive]
                await asyncio.gather(*(worker.refresh() for worker in alive))
                if all(worker.connectivity != CONNECTED for worker in alive):
                    return
                await asyncio.sleep(0.01)


@asynccontextmanager
async def set_up(redis: str | None, *, on_postgres: bool = False) -> AsyncGenerator[Stage]:
    """A started stage. However this ends, no process and no file is left."""
    folder = Path(tempfile.mkdtemp(prefix="coordinator-demo-"))
    server: ValkeyServer | None = None
    postgres: PostgresServer | None = None
    stage: Stage | None = None
    politely = False
    try:
        # From this thread: the servers end together with their parent.
        if redis is None:
            server = start_server(folder)
        if on_postgres:
            postgres = start_postgres()
        stage = Stage(folder, server, redis or (server.url if server is not None else ""), postgres)
        await stage.start()
        yield stage
        politely = True
    finally:
        await asyncio.shield(_tear_down(folder, server, postgres, stage, politely=politely))


async def _tear_down(
    folder: Path,
    server: ValkeyServer | None,
    postgres: PostgresServer | None,
    stage: Stage | None,
    *,
    politely: bool,
) -> None:
    if stage is not None:
        await asyncio.gather(*(worker.aclose(politely=politely) for worker in stage.workers.values()))
    if server is not None:
        server.kill()
    if postgres is not None:
        postgres.close()
    shutil.rmtree(folder, ignore_errors=True)
