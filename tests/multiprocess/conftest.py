"""Real worker processes: on one SQLite file, with a real Redis and without, and on PostgreSQL alone,
with a pooler before it and without."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from coordinator.servers.valkey import ValkeyServer
from tests.support.postgres import Database
from tests.support.processes import Fleet, fleet_on, fleet_on_postgres
from tests.support.teams import keys_without_ttl


@pytest.fixture(params=["redis", "store only"])
async def fleet(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    shared_valkey: ValkeyServer,
    shared_postgres: Database,
    namespace: str,
) -> AsyncGenerator[Fleet]:
    if request.param in {"postgres", "pooler"}:
        pooler = request.getfixturevalue("shared_pooler") if request.param == "pooler" else None
        async with fleet_on_postgres(shared_postgres, pooler=pooler, namespace=namespace) as made:
            yield made
        return
    redis = shared_valkey.url if request.param == "redis" else None
    async with fleet_on(tmp_path, redis, namespace=namespace) as made:
        yield made
    assert not keys_without_ttl(shared_valkey, namespace)


@pytest.fixture
async def fragile(tmp_path: Path, own_valkey: ValkeyServer) -> AsyncGenerator[Fleet]:
    """On a Redis that the test may harm."""
    async with fleet_on(tmp_path, own_valkey.url) as made:
        yield made
