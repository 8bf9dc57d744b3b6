"""Several workers on one store, in one process: each sees the others as it sees other gateways."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from coordinator import RunManager, Settings, open_coordinator
from coordinator.notifier import Connectivity
from coordinator.servers.valkey import ValkeyServer
from tests.support.waiting import wait_until

QUICK: dict[str, Any] = {
    "sqlite_synchronous": "NORMAL",
    "tick": 0.2,
    "short_tick": 0.05,
    "canary": 0.1,
    "renew": 0.3,
    "lease_ttl": 10.0,
    "lease_margin": 0.5,
    "sweep": 0.2,
    "force_after": 1.0,
    "grace": 0.3,
    "keep_temporary": 1.0,
    "admission_patience": 0.1,
}
"""Settings that shorten seconds to tenths."""

on_every_store = pytest.mark.parametrize("team", ["redis", "store only", "postgres"], indirect=True)
"""For the tests of a module: beside the others, on PostgreSQL, where hints travel by NOTIFY."""

EVENT_BUDGET = 10.0
"""For tests of which events are delivered (s). With the default, a quarter of a second, a busy machine may
delay Redis or this process for longer: then an emit returns without the log, where its event is missing."""


@asynccontextmanager
async def team_of(
    size: int,
    folder: Path,
    *,
    redis: str | None = None,
    namespace: str = "rc",
    assistants: Any = None,
    **overrides: Any,
) -> AsyncGenerator[list[RunManager]]:
    """Yields started workers on one store, an SQLite file unless `store` names another. Where hints travel,
    the workers are subscribed to their abort channels."""
    given: dict[str, Any] = {"store": f"sqlite:///{folder / 'runs.db'}", **QUICK, **overrides}
    settings = Settings(redis=redis, namespace=namespace, **given)
    async with AsyncExitStack() as stack:
        opened = (open_coordinator(settings=settings, assistants=assistants) for _ in range(size))
        team = [await stack.enter_async_context(manager) for manager in opened]
        for manager in team if redis or settings.store.startswith("postgresql:") else ():
            await wait_until(
                lambda manager=manager: manager.worker.connectivity is Connectivity.connected,
                description="the worker is subscribed to its abort channel",
            )
        yield team


def keys_without_ttl(server: ValkeyServer, namespace: str) -> bool:
    """Returns True if any key of the namespace has no TTL."""
    script = (
        "for _, key in ipairs(redis.call('KEYS', ARGV[1] .. ':*')) do"
        " if redis.call('PTTL', key) < 0 then return 1 end end return 0"
    )
    return server.command("EVAL", script, "0", namespace) != b":0\r\n"
