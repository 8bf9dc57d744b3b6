"""Every store, one suite."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from stores.base import CoordinationStore
from stores.memory import MemoryStore
from stores.sqlite import SQLiteStore
from tests.conformance.run_store import StoreConformance
from tests.support.builders import StoreClock
from tests.support.postgres import Database


class TestMemoryStore(StoreConformance):
    @pytest.fixture
    def store(self, clock: StoreClock) -> CoordinationStore:
        return MemoryStore(clock=clock)


class TestSQLiteStore(StoreConformance):
    @pytest.fixture
    async def store(self, clock: StoreClock, tmp_path: Path) -> AsyncGenerator[CoordinationStore]:
        store = SQLiteStore(tmp_path / "runs.db", clock=clock, synchronous="NORMAL")
        await store.open()
        yield store
        await store.aclose()


class TestPostgresStore(StoreConformance):
    """As a role with the rights of a worker, and no others."""

    @pytest.fixture
    async def store(self, clock: StoreClock, shared_postgres: Database) -> AsyncGenerator[CoordinationStore]:
        async with shared_postgres.store(clock=clock) as store:
            yield store
