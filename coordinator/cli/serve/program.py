"""From the options of `serve` and `dev` to a supervisor that runs, and back to an exit code."""

from __future__ import annotations

import logging
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from coordinator.cli.failures import DONE, USAGE, CommandFailed
from coordinator.cli.serve.banner import Banner
from coordinator.cli.serve.embedded import EmbeddedRedis, data_folder, store_in
from coordinator.gateway.server import logs
from coordinator.gateway.server.channel import Orders, Ready
from coordinator.gateway.server.failures import CannotServe
from coordinator.gateway.server.listening import Listening
from coordinator.gateway.server.supervisor import Supervisor
from coordinator.gateway.shared_counts import shared_between_workers

logger = logging.getLogger("coordinator.serve")

_NEEDED = ("fastapi", "uvicorn")


@dataclass(frozen=True, slots=True)
class Asked:
    """The options. None = the environment or the default, which the worker looks up."""

    host: str
    port: int
    workers: int
    store: str | None
    redis: str | None
    assistants: str | None
    log_format: Literal["text", "json"]
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    gateway: dict[str, Any] = field(default_factory=dict[str, Any])
    develops: bool = False
    watched: tuple[Path, ...] = ()
    """Folders whose Python files are looked at for changes."""


async def serve(asked: Asked) -> int:
    """Until a signal ends it. Raises CommandFailed."""
    _check_installed()
    logs.configure(asked.log_format, "supervisor")
    try:
        async with AsyncExitStack() as stack:
            await _run(asked, stack)
    except CannotServe as error:
        raise CommandFailed("CannotServe", error.message, error.hint, code=error.code) from None
    return DONE


def _check_installed() -> None:
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise CommandFailed(
            "NotInstalled",
            f"{' and '.join(missing)} not installed",
            "Install the server with: pip install 'run-coordinator[gateway]'",
            code=USAGE,
        )
    if sys.platform == "win32":
        raise CommandFailed(
            "NotSupported",
            "a server needs the signals and sockets of Linux or macOS",
            "On Windows, mount `coordinator.gateway.create_gateway` in an app of your own",
            code=USAGE,
        )


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
    if asked.store is None:
        folder = data_folder()
        settings["store"] = store_in(folder)
        if asked.redis is None:
            redis = EmbeddedRedis(folder)
            stack.push_async_callback(redis.aclose)
            if await redis.start():
                settings["redis"] = redis.url
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

    def orders(slot: int) -> Orders:
        return Orders(slot, 0, asked.assistants, asked.log_format, settings, gateway)

    banner = Banner(listening, asked.workers, embedded, bool(asked.watched) if asked.develops else None)
    await Supervisor(
        listening,
        orders,
        slots=asked.workers,
        announce=lambda up: _announce(banner, up, asked.log_format),
        changes=_changes(asked.watched),
        beside=() if redis is None else (redis.keep,),
    ).run()


def _changes(watched: tuple[Path, ...]) -> Any:
    if not watched:
        return None
    from coordinator.cli.serve.reload import changes

    return changes(list(watched))


def _announce(banner: Banner, up: Ready, log_format: str) -> None:
    if log_format == "json":
        about = {"url": banner.listening.url, "workers": banner.workers, "store": up.store, "redis": up.redis}
        logger.info("serving; %s", up.access, extra=about)
    else:
        print("\n".join(banner.lines(up)), flush=True)
