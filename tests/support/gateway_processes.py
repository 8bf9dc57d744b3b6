"""The test's side of `gateway_process`, and a load balancer before such processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from tests.support.forked import ROOT, ForkedProcess, Program, fork
from tests.support.teams import QUICK

GATEWAY = Program(
    "tests.support.gateway_process:run",
    preload=(
        "coordinator.bootstrap",
        "redis.asyncio",
        "stores.sqlite",
        "tests.support.gateway_agents",
        "tests.support.gateway_process",
    ),
    path=str(ROOT),
)


class GatewayProcess:
    """Serves on an address of its own."""

    def __init__(self, process: ForkedProcess, port: int) -> None:
        self._process, self.port = process, port
        self.url = f"http://127.0.0.1:{port}"

    async def kill(self) -> None:
        """As by `kill -9`. Idempotent."""
        if self._process.returncode is None:
            os.kill(self._process.pid, signal.SIGKILL)
        await self._process.wait()

    async def leave(self) -> None:
        """SIGTERM, and wait for its end."""
        os.kill(self._process.pid, signal.SIGTERM)
        async with asyncio.timeout(20):
            await self._process.wait()


@asynccontextmanager
async def gateway_processes(
    size: int, folder: Path, redis: str, namespace: str, **settings: Any
) -> AsyncGenerator[list[GatewayProcess]]:
    given = {"store": f"sqlite:///{folder / 'runs.db'}", "redis": redis, "namespace": namespace}
    async with AsyncExitStack() as stack:
        yield list(
            await asyncio.gather(*(start_process(stack, {**QUICK, **given, **settings}) for _ in range(size)))
        )


async def start_process(
    stack: AsyncExitStack, settings: dict[str, Any], assistants: str = "tests.support.gateway_agents"
) -> GatewayProcess:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        options = {
            "fd": listener.fileno(),
            "coordinator": settings,
            "gateway": {"heartbeat": 0.2},
            "assistants": assistants,
        }
        process = await fork(GATEWAY, json.dumps(options), pass_fds=[listener.fileno()], cwd=ROOT, quiet=True)
        one = GatewayProcess(process, listener.getsockname()[1])
        stack.push_async_callback(one.kill)
        async with asyncio.timeout(40):
            assert await process.stdout.readline() == b"ready\n"
        return one


class Balancer:
    """Sends each connection to the first of `ports` that takes it. Entered, it listens at `url`."""

    def __init__(self, *ports: int) -> None:
        self.ports = list(ports)
        self.taken: list[int] = []
        self.answered = asyncio.Event()
        self._server: asyncio.Server | None = None
        self.pumping: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Balancer:
        self._server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        for pumping in self.pumping:
            pumping.cancel()
        await asyncio.gather(*self.pumping, return_exceptions=True)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for port in self.ports:
            with suppress(ConnectionError):
                there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
                self.taken.append(port)
                up = asyncio.create_task(_pump(reader, there_writer))
                down = asyncio.create_task(_pump(there_reader, writer, self.answered))
                self.pumping |= {up, down}
                return
        writer.close()


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passed: asyncio.Event | None = None
) -> None:
    try:
        while data := await reader.read(1 << 16):
            if passed is not None:
                passed.set()
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        writer.transport.abort()  # the other peer gets a reset, too
    finally:
        writer.close()
