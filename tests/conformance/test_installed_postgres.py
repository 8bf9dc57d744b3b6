"""The PostgreSQL of the distribution: with JIT, of another version than the wheel's, with adverse defaults.
Runs the part of the suite that depends most on plans, settings and versions."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator

import pytest

from coordinator.servers.postgres import PostgresServer, find_installed
from stores.postgres import PostgresStore
from tests.conformance.run_store.catalogue import Threads
from tests.conformance.run_store.rollbacks import Rollbacks
from tests.conformance.run_store.workers import Workers
from tests.support.builders import StoreClock
from tests.support.postgres import Database

pytestmark = pytest.mark.slow

NOT_RUN = "NOT RUN: needs the distribution's PostgreSQL: install it (Debian: apt install postgresql)"
IN_THE_WAY = {
    "jit": "on",
    "jit_above_cost": "0",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "extra_float_digits": "0",
    "DateStyle": "German",
    "TimeZone": "Asia/Kathmandu",
    "standard_conforming_strings": "off",
}


@pytest.fixture(scope="session")
def installed_postgres() -> Generator[Database]:
    programs = find_installed()
    if programs is None:
        pytest.skip(NOT_RUN)
    with PostgresServer(durable=False, settings=IN_THE_WAY, programs=programs) as server:
        yield Database(server.url(), server)


class TestInstalledPostgres(Workers, Rollbacks, Threads):
    """As a role that owns nothing, in a schema of another name than the default."""

    @pytest.fixture
    async def store(self, clock: StoreClock, installed_postgres: Database) -> AsyncGenerator[PostgresStore]:
        async with installed_postgres.store(clock=clock) as store:
            yield store


async def test_its_defaults_are_in_the_way(installed_postgres: Database) -> None:
    async with installed_postgres.connection() as cx:
        assert await cx.fetchval("SELECT pg_jit_available()")
        assert await cx.fetchval("SHOW transaction_isolation") == "serializable"
