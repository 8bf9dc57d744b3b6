"""PostgreSQL behind PgBouncer in transaction mode, the same suite: each call may meet another session, and
finds nothing of the one before."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from stores.postgres import PostgresStore
from tests.conformance.run_store import StoreConformance
from tests.support.builders import StoreClock
from tests.support.pooler import Pooler


class TestPostgresStoreBehindAPooler(StoreConformance):
    @pytest.fixture
    async def store(self, clock: StoreClock, shared_pooler: Pooler) -> AsyncGenerator[PostgresStore]:
        async with shared_pooler.store(clock=clock) as store:
            yield store
