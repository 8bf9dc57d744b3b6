"""From the options of `serve` and `dev` to a supervisor that runs, and back to an exit code."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack

from coordinator.cli.serve.asked import Asked
from coordinator.cli.serve.banner import Banner
from coordinator.cli.serve.embedded import EmbeddedRedis
from coordinator.cli.serve.folder import data_folder, store_in
from coordinator.gateway.server import logs
from coordinator.gateway.server.channel import Orders, Ready
from coordinator.gateway.server.failures import CannotServe
from coordinator.gateway.server.listening import Listening
from coordinator.gateway.server.spawning import spawned_ahead
from coordinator.gateway.server.supervisor import Supervisor
from coordinator.gateway.shared_counts import shared_between_workers, shared_folder

logger = logging.getLogger("coordinator.serve")


async def serve(asked: Asked) -> None:
    """Until a signal ends it. Raises CannotServe."""
    logs.configure(asked.log_format, logs.Who("supervisor"))
    async with AsyncExitStack() as stack:
        await _run(asked, stack)


async def _run(asked: Asked, stack: AsyncExitStack) -> None:
    if asked.workers > 1 and (asked.store or "").startswith("memory:"):
        raise CannotServe(
            "memory:// is inside one process, and several workers need one store",
            "Name a file (--store sqlite:///runs.db), or --workers 1",
        )
    if asked.workers > 1:
        stack.enter_context(shared_between_workers())
    listening = Listening(asked.host, asked.port, asked.workers)
    stack.callback(listening.close)
    settings, embedded = dict(asked.settings), asked.store is None
    redis: EmbeddedRedis | None = None
    brought: asyncio.Task[bool] | None = None
    if asked.store is None:
        folder = data_folder()
        settings["store"] = store_in(folder)
        if asked.redis is None:
            redis = EmbeddedRedis(folder)
            stack.push_async_callback(redis.aclose)
            brought = asyncio.create_task(redis.start())
    else:
        settings["store"] = asked.store
    if asked.redis is not None:
        settings["redis"] = asked.redis
    gateway = {
        **asked.gateway,
        "host": asked.host,
        "port": listening.port,
        "workers": asked.workers,
        "log_format": asked.log_format,
    }

    async def orders(slot: int) -> Orders:
        if redis is not None and brought is not None and await asyncio.shield(brought):
            settings["redis"] = redis.url
        return Orders(
            slot, asked.assistants, asked.log_format, settings, gateway, asked.watched, shared_folder()
        )

    ahead = spawned_ahead()
    if ahead is not None:
        stack.callback(ahead.line.close)
    banner = Banner(listening, asked.workers, embedded, bool(asked.watched) if asked.develops else None)
    await Supervisor(
        listening,
        orders,
        slots=asked.workers,
        announce=lambda up: _announce(banner, up, asked.log_format),
        ahead=ahead,
        beside=() if redis is None else (redis.keep,),
    ).run()


def _announce(banner: Banner, up: Ready, log_format: str) -> None:
    if log_format == "json":
        about = {"url": banner.listening.url, "workers": banner.workers, "store": up.store, "redis": up.redis}
        logger.info("serving; %s", up.access, extra=about)
    else:
        print("\n".join(banner.lines(up)), flush=True)
