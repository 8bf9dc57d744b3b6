"""An app of one's own, whose runs are drained from the signal on and not after its last open answer."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import socket
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

from coordinator.gateway.app import Gateway, running_gateways
from coordinator.gateway.server import descriptors, logs
from coordinator.gateway.server.channel import Orders, Ready
from coordinator.gateway.server.failures import CannotServe
from coordinator.gateway.server.listening import Listening
from coordinator.gateway.server.serving import App, Http, loop_factory, serve_until_drained
from coordinator.gateway.server.supervisor import Supervisor
from coordinator.gateway.server.variables import warn_of_unknown
from coordinator.gateway.shared_counts import shared_between_workers, shared_folder
from coordinator.manager import RunManager
from coordinator.runs.exits import contain_tasks

logger = logging.getLogger("coordinator.serve")


def serve(
    app: Any,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int = 1,
    log_format: logs.LogFormat = "text",
) -> None:
    """Serve an ASGI app whose lifespan enters `gateway.running()`, until a signal ends it.

    At SIGTERM or SIGINT no connection is accepted any more, requests that have arrived are answered, runs get
    the grace of their manager, streams break off so that clients continue at another worker, and then the
    lifespan of the app ends. At the latest 5 s after the grace the process is gone. A second signal ends the
    grace.

    `app`: the app, or where it is, as "module:attribute". Named so, it is served by `workers` processes on
    one port; one that dies is started again, SIGHUP replaces them one by one. Logs go to stderr; the logging
    of a program that gives the app itself is left alone where it has handlers. From the main thread, without
    a running event loop. Raises CannotServe.
    """
    if isinstance(app, str):
        if sys.platform == "win32":
            raise CannotServe(
                "worker processes need the signals and sockets of Linux or macOS", "Give the app itself"
            )
        asyncio.run(_supervise(app, host, port, workers, log_format))
        return
    if workers != 1:
        raise CannotServe(
            "every worker imports the app itself", "Name it: serve('my_package.app:app', workers=3)"
        )
    if not logging.getLogger().handlers:
        logs.configure(log_format, logs.Who("server"))
    descriptors.raise_limit()
    warn_of_unknown(os.environ)
    listening = Listening(host, port, 1)
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            ready = functools.partial(logger.info, "serving on %s", listening.url)
            runner.run(serve_app(app, listening.socket(0), ready))
    finally:
        listening.close()


async def _supervise(app: str, host: str, port: int, workers: int, log_format: logs.LogFormat) -> None:
    logs.configure(log_format, logs.Who("supervisor"))
    warn_of_unknown(os.environ)
    async with AsyncExitStack() as stack:
        if workers > 1:
            stack.enter_context(shared_between_workers())
        listening = Listening(host, port, workers)
        stack.callback(listening.close)

        async def orders(slot: int) -> Orders:
            return Orders(slot, app=app, log_format=log_format, counts=shared_folder())

        def announce(_: Ready) -> None:
            logger.info("serving on %s", listening.url)

        await Supervisor(listening, orders, slots=workers, announce=announce).run()


async def serve_app(app: App, port: socket.socket, ready: Callable[[], object]) -> None:
    """In this process, on a bound socket. `ready` is called when it listens."""

    async def listens() -> None:
        ready()

    contain_tasks(asyncio.get_running_loop())
    gateways = Gateways()
    http = Http(app, lifespan="on")
    await serve_until_drained(http, gateways, port, ready=listens, let_go=gateways.let_go)
    logger.info("gone")


class Gateways:
    """All that run in this process, drained as one."""

    @property
    def grace(self) -> float:
        return max((manager.grace for manager in self._managers), default=0.0)

    @property
    def epoch(self) -> int:
        """Of the worker that this process is; 0 = none."""
        return max((manager.epoch for manager in self._managers), default=0)

    async def drain(self, grace: float | None = None) -> None:
        await asyncio.gather(*(manager.drain(grace) for manager in self._managers))

    def hurry(self) -> None:
        for manager in self._managers:
            manager.hurry()

    def let_go(self) -> None:
        for gateway in running_gateways():
            gateway.let_go()

    @property
    def _managers(self) -> set[RunManager]:
        """Several gateways may share one."""
        return {manager_of(gateway) for gateway in running_gateways()}


def manager_of(gateway: Gateway) -> RunManager:
    return gateway.state.services.manager
