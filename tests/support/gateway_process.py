"""A gateway as a process of its own.

Its argument, in JSON, names the descriptor of the socket to serve on, the settings of the coordinator and of
the gateway, and the module with the assistants. SIGTERM drains it as a server does.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import signal
import socket
import sys
from typing import Any

import uvicorn

from coordinator import Settings, open_coordinator
from coordinator.gateway import GatewaySettings, create_gateway
from tests.support.inside import serve_on


async def serve(options: dict[str, Any]) -> None:
    agents = importlib.import_module(options["assistants"]).AGENTS
    async with open_coordinator(settings=Settings(**options["coordinator"]), assistants=agents) as manager:
        gateway = create_gateway(manager, settings=GatewaySettings(**options["gateway"]))
        config = uvicorn.Config(gateway, lifespan="off", log_level="warning", access_log=False)
        server = uvicorn.Server(config)
        leaving: list[asyncio.Task[None]] = []

        async def leave() -> None:
            await manager.worker.drain()
            gateway.abort_streams()
            server.should_exit = True

        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, lambda: leaving.append(loop.create_task(leave())))
        with socket.socket(fileno=options["fd"]) as listening:
            sys.stdout.write("ready\n")
            sys.stdout.flush()
            await serve_on(server, listening)
        await asyncio.gather(*leaving)


def run() -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    asyncio.run(serve(json.loads(sys.argv[1])))
