"""Serves a user's ASGI app. Its runs are drained at the signal, not after the last open response."""

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
from coordinator.gateway.settings import GatewaySettings
from coordinator.gateway.shared_counts import shared_between_workers, shared_folder
from coordinator.manager import RunManager
from coordinator.resources.worker import ThisWorker
from coordinator.runs.exits import contain_tasks
from coordinator.settings import Settings
from coordinator.variables import warn_of_unknown

logger = logging.getLogger("coordinator.serve")


def serve(
    app: Any,  # Any: an app by any framework, or its name
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int = 1,
    log_format: logs.LogFormat = "text",
) -> None:
    """Serves an ASGI app whose lifespan enters `gateway.running()`, until a signal stops it.

    At SIGTERM or SIGINT the server accepts no more connections and answers the requests that it has received.
    Runs get the grace of their manager. Then streams are aborted, so that their clients resume at another
    worker, and the lifespan of the app ends. The process ends at the latest 5 s after the grace. A second
    signal ends the grace.

    `app` is the app itself or its name, "module:attribute". A named app is served by `workers` processes on
    one port: a worker that dies is restarted, and SIGHUP replaces the workers one by one. Logs go to stderr;
    if `app` is the app itself and the root logger has handlers, logging is not configured. Must be called in
    the main thread, without a running event loop. Raises CannotServe.
    """
    if isinstance(app, str):
        if sys.platform == "win32":
            raise CannotServe(
                "worker processes need the signals and sockets of Linux or macOS", "Pass the app itself"
            )
        asyncio.run(_supervise(app, host, port, workers, log_format))
        return
    if workers != 1:
        raise CannotServe(
            "several workers need the name of an app, which each of them imports",
            "Pass its name: serve('my_package.app:app', workers=3)",
        )
    if not logging.getLogger().handlers:
        logs.configure(log_format, logs.Who("server"))
    _serve_here(app, host, port)


def _serve_here(app: App, host: str, port: int) -> None:
    descriptors.raise_limit()
    _warn_of_unknown_variables()
    listening = Listening(host, port, 1)
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            ready = functools.partial(logger.info, "serving on %s", listening.url)
            runner.run(serve_app(app, listening.socket(0), ready))
    finally:
        listening.close()


def _warn_of_unknown_variables() -> None:
    warn_of_unknown(os.environ, (*Settings.model_fields, *GatewaySettings.model_fields))


async def _supervise(app: str, host: str, port: int, workers: int, log_format: logs.LogFormat) -> None:
    logs.configure(log_format, logs.Who("supervisor"))
    _warn_of_unknown_variables()
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
    """Serves `app` in this process on a bound socket until a signal has drained it. `ready` is called once
    when it listens. Raises CannotServe."""

    async def notify_ready() -> None:
        ready()

    contain_tasks(asyncio.get_running_loop())
    gateways = Gateways()
    http = Http(app, lifespan="on")
    await serve_until_drained(http, gateways, port, ready=notify_ready, abort_streams=gateways.abort_streams)
    logger.info("stopped")


class Gateways:
    """The running gateways of this process, drained as one manager."""

    @property
    def grace(self) -> float:
        return max((worker.grace for worker in self._workers), default=0.0)

    @property
    def epoch(self) -> int:
        """The epoch of the worker in this process; 0 if no gateway runs."""
        return max((worker.epoch for worker in self._workers), default=0)

    async def drain(self, grace: float | None = None) -> None:
        await asyncio.gather(*(worker.drain(grace) for worker in self._workers))

    def end_grace(self) -> None:
        for worker in self._workers:
            worker.end_grace()

    def abort_streams(self) -> None:
        for gateway in running_gateways():
            gateway.abort_streams()

    @property
    def _workers(self) -> set[ThisWorker]:
        """The workers, each once: several gateways may share a manager."""
        return {manager_of(gateway).worker for gateway in running_gateways()}


def manager_of(gateway: Gateway) -> RunManager:
    return gateway.state.services.manager
