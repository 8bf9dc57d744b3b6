"""Three workers with the same graphs on one store, each with a client of its own."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

from coordinator import Settings, open_coordinator
from coordinator.gateway import create_gateway
from coordinator.langgraph.serving import adapted
from coordinator.servers.valkey import ValkeyServer
from tests.support.gateways import Sdk, Served, gateway_settings, served
from tests.support.postgres import Database
from tests.support.teams import EVENT_BUDGET, QUICK

Team = tuple[Sdk, Sdk, Sdk]
KINDS = ["sqlite and valkey", "postgresql"]


@asynccontextmanager
async def team_of(
    kind: str,
    folder: Path,
    valkey: ValkeyServer,
    postgres: Database,
    graphs: Callable[[], Mapping[str, Any]],
    **more: Any,
) -> AsyncGenerator[list[Served]]:
    async with AsyncExitStack() as stack:
        if kind == "postgresql":
            name = f"client_{uuid4().hex[:12]}"
            await postgres.execute(f"CREATE DATABASE {name}")
            stack.push_async_callback(postgres.execute, f"DROP DATABASE {name} WITH (FORCE)")
            url, redis = urlunsplit(urlsplit(postgres.url)._replace(path=f"/{name}")), None
        else:
            url, redis = f"sqlite:///{folder}/runs.db", valkey.url
        namespace = f"client-{uuid4().hex[:12]}"
        quick: dict[str, Any] = {**QUICK, "event_budget": EVENT_BUDGET}
        settings = Settings(store=url, redis=redis, namespace=namespace, **quick)
        yield [await _one(stack, settings, graphs, more) for _ in range(3)]


async def _one(
    stack: AsyncExitStack,
    settings: Settings,
    graphs: Callable[[], Mapping[str, Any]],
    more: Mapping[str, Any],
) -> Served:
    assistants = {**adapted(dict(graphs()), settings.store), **more}
    manager = await stack.enter_async_context(open_coordinator(settings=settings, assistants=assistants))
    gateway = create_gateway(manager, settings=gateway_settings({}))
    return await stack.enter_async_context(served(manager, gateway))
