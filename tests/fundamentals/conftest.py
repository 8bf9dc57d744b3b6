"""Two workers on one store, with Redis and without: every idea holds in both, and the central ones (see
`teams.on_every_store`) on PostgreSQL alone as well."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from coordinator import RunManager, Settings, open_coordinator
from coordinator.servers.valkey import ValkeyServer
from tests.support.postgres import Database
from tests.support.teams import QUICK, keys_without_ttl, team_of


@pytest.fixture(autouse=True)
async def nothing_left(no_task_left: None) -> None:
    """No test leaves a task behind."""


@pytest.fixture(params=["redis", "store only"])
async def team(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    shared_valkey: ValkeyServer,
    shared_postgres: Database,
    namespace: str,
) -> AsyncGenerator[list[RunManager]]:
    """Two workers. `@pytest.mark.settings(tick=...)` overrides settings of `QUICK`;
    `@pytest.mark.assistants(name=agent)` registers assistants."""
    marker = request.node.get_closest_marker("settings")
    assistants = request.node.get_closest_marker("assistants")
    overrides: dict[str, Any] = {} if marker is None else dict(marker.kwargs)
    if assistants is not None:
        overrides["assistants"] = assistants.kwargs
    if request.param == "postgres":
        async with shared_postgres.worker() as (url, schema):
            on_postgres = {"store": url, "postgres_schema": schema, **overrides}
            async with team_of(2, tmp_path, namespace=namespace, **on_postgres) as managers:
                yield managers
        return
    redis = shared_valkey.url if request.param == "redis" else None
    async with team_of(2, tmp_path, redis=redis, namespace=namespace, **overrides) as managers:
        yield managers
    assert not keys_without_ttl(shared_valkey, namespace)


@pytest.fixture
async def alone(tmp_path: Path) -> AsyncGenerator[RunManager]:
    """One worker in store-only mode."""
    async with team_of(1, tmp_path) as (manager,):
        yield manager


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def manager(
    request: pytest.FixtureRequest, tmp_path: Path, shared_postgres: Database, namespace: str
) -> AsyncGenerator[RunManager]:
    """One worker on each store."""
    if request.param == "postgres":
        async with (
            shared_postgres.worker() as (url, schema),
            team_of(1, tmp_path, namespace=namespace, store=url, postgres_schema=schema) as (manager,),
        ):
            yield manager
    elif request.param == "memory":
        async with open_coordinator(settings=Settings(store="memory://", **QUICK)) as manager:
            yield manager
    else:
        async with team_of(1, tmp_path) as (manager,):
            yield manager
