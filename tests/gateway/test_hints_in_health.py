"""Health and metrics distinguish Redis and the notifications of PostgreSQL."""

from __future__ import annotations

import pytest

from coordinator import Settings, open_coordinator
from coordinator.gateway import create_gateway
from coordinator.notifier import Connectivity
from coordinator.servers.valkey import ValkeyServer
from tests.support.gateways import AGENTS, served
from tests.support.postgres import Database
from tests.support.teams import QUICK
from tests.support.waiting import wait_until


@pytest.mark.parametrize(("carrier", "redis"), [("NOTIFY", "off"), ("Redis", "connected")])
async def test_redis_is_off_where_postgresql_delivers_hints(
    carrier: str, redis: str, shared_postgres: Database, shared_valkey: ValkeyServer
) -> None:
    async with shared_postgres.worker() as (url, schema):
        settings = Settings(
            store=url,
            postgres_schema=schema,
            redis=shared_valkey.url if carrier == "Redis" else None,
            namespace=schema,
            **QUICK,
        )
        async with (
            open_coordinator(settings=settings, assistants=AGENTS) as manager,
            served(manager, create_gateway(manager)) as gateway,
        ):
            await wait_until(
                lambda: manager.worker.connectivity is Connectivity.connected, description="hints arrive"
            )
            health = (await gateway.raw.get("/coordinator/health")).json()
            assert (health["redis"], health["hints"]) == (redis, "connected")
            metrics = (await gateway.raw.get("/metrics")).text
            assert f"coordinator_worker_redis_connected {float(redis == 'connected')}" in metrics
            assert "coordinator_worker_hints_connected 1.0" in metrics
