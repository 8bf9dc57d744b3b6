"""Runs the supervisor of `serve` and `dev` with its listening socket, store and Redis."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from dataclasses import dataclass

from coordinator.cli.serve.banner import Banner
from coordinator.cli.serve.embedded import EmbeddedRedis
from coordinator.cli.serve.folder import data_folder, store_in
from coordinator.cli.serve.handover import ServeOptions
from coordinator.gateway.server import logs
from coordinator.gateway.server.channel import Orders, Ready
from coordinator.gateway.server.failures import CannotServe
from coordinator.gateway.server.listening import Listening
from coordinator.gateway.server.spawning import spawned_ahead
from coordinator.gateway.server.supervisor import Supervisor
from coordinator.gateway.shared_counts import shared_between_workers, shared_folder
from stores.json_values import JsonObject

logger = logging.getLogger("coordinator.serve")


async def serve(options: ServeOptions) -> None:
    """Serve until a signal ends it. Raises CannotServe."""
    logs.configure(options.log_format, logs.Who("supervisor"))
    async with AsyncExitStack() as stack:
        await _run(options, stack)


async def _run(options: ServeOptions, stack: AsyncExitStack) -> None:
    if options.workers > 1 and (options.store or "").startswith("memory:"):
        raise CannotServe(
            "memory:// exists only within one process, but several workers need a common store",
            "Use a file (--store sqlite:///runs.db), or --workers 1",
        )
    if options.workers > 1:
        stack.enter_context(shared_between_workers())
    listening = Listening(options.host, options.port, options.workers)
    stack.callback(listening.close)
    backend = _open_backend(options, stack)
    gateway = _gateway_settings(options, listening.port)

    async def orders(slot: int) -> Orders:
        return Orders(
            slot, options.assistants, options.log_format, await backend.resolved(), gateway,
            options.watched_folders, shared_folder(),
        )  # fmt: skip

    ahead = spawned_ahead()
    if ahead is not None:
        stack.callback(ahead.line.close)
    reload = bool(options.watched_folders) if options.development else None
    banner = Banner(listening, options.workers, options.store is None, reload)
    await Supervisor(
        listening,
        orders,
        slots=options.workers,
        announce=lambda up: _announce(banner, up, options.log_format),
        ahead=ahead,
        beside=() if backend.redis is None else (backend.redis.keep,),
    ).run()


@dataclass(frozen=True, slots=True)
class _Backend:
    """Settings of the workers, and the embedded Redis while it starts."""

    settings: JsonObject
    redis: EmbeddedRedis | None = None
    started: asyncio.Task[bool] | None = None

    async def resolved(self) -> JsonObject:
        """Return the settings; includes the embedded Redis if it could be started."""
        if self.redis is not None and self.started is not None and await asyncio.shield(self.started):
            self.settings["redis"] = self.redis.url
        return self.settings


def _open_backend(options: ServeOptions, stack: AsyncExitStack) -> _Backend:
    """The given store and Redis. Without a store: a file in the data folder, with an embedded Redis unless
    one is given. Raises CannotServe."""
    settings = dict(options.settings)
    if options.redis is not None:
        settings["redis"] = options.redis
    if options.store is not None:
        settings["store"] = options.store
        return _Backend(settings)
    folder = data_folder()
    settings["store"] = store_in(folder)
    if options.redis is not None:
        return _Backend(settings)
    redis = EmbeddedRedis(folder)
    stack.push_async_callback(redis.aclose)
    return _Backend(settings, redis, asyncio.create_task(redis.start()))


def _gateway_settings(options: ServeOptions, port: int) -> JsonObject:
    return {
        **options.gateway,
        "host": options.host,
        "port": port,
        "workers": options.workers,
        "log_format": options.log_format,
    }


def _announce(banner: Banner, up: Ready, log_format: str) -> None:
    if log_format == "json":
        fields = {
            "url": banner.listening.url,
            "workers": banner.workers,
            "store": up.store,
            "redis": up.redis,
        }
        logger.info("serving; %s", up.access, extra=fields)
    else:
        logs.flush()
        print("\n".join(banner.lines(up)), flush=True)
