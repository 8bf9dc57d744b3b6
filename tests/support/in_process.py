"""A uvicorn in the process of the tests that stops at once, not at its next look every 0.1 s."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import uvicorn

from tests.support.inside import serve_on
from tests.support.waiting import wait_until

_POLL = 0.002  # s
_POLLS = 25  # then uvicorn's own shutdown waits for what is still open, and cancels it in the end


class Server(uvicorn.Server):
    """Its lifespan is the caller's (`lifespan="off"`)."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        self.should_exit = True
        self._stopped.set()

    async def main_loop(self) -> None:
        while not await self.on_tick(0):  # which sets the header `date`
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._stopped.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        state = self.server_state
        for server in self.servers:
            server.close()
        for connection in list(state.connections):
            connection.shutdown()
        for _ in range(_POLLS):
            if not (state.connections or state.tasks):
                for server in self.servers:
                    await server.wait_closed()
                return
            await asyncio.sleep(_POLL)
        await super().shutdown(sockets)


@asynccontextmanager
async def listening_server(config: uvicorn.Config) -> AsyncGenerator[tuple[Server, int]]:
    """Yields a server that listens on loopback, and its port. The server has stopped when this returns."""
    server = Server(config)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        serving = asyncio.create_task(serve_on(server, listener))
        await wait_until(lambda: server.started, description="it listens")
        try:
            yield server, listener.getsockname()[1]
        finally:
            server.stop()
            await serving
