"""The suite on PostgreSQL behind PgBouncer in transaction mode: each call may use another session,
without the state of the previous one."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from stores.postgres import PostgresStore
from tests.conformance.run_store import StoreConformance
from tests.support.builders import StoreClock
from tests.support.pooler import Pooler

pytestmark = pytest.mark.slow


class TestPostgresStoreBehindAPooler(StoreConformance):
    @pytest.fixture
    async def store(self, clock: StoreClock, shared_pooler: Pooler) -> AsyncGenerator[PostgresStore]:
        async with shared_pooler.store(clock=clock) as store:
            yield store
