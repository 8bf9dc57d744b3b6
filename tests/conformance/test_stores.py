"""Every store, one suite."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from stores.base import CoordinationStore
from stores.memory import MemoryStore
from stores.sqlite import SQLiteStore
from tests.conformance.run_store import StoreConformance
from tests.support.builders import StoreClock
from tests.support.postgres import Database
from tests.support.twins import TwinStore


def test_no_case_hides_another() -> None:
    names = Counter(
        name for case in StoreConformance.__mro__ for name in vars(case) if name.startswith("test_")
    )
    assert [name for name, count in names.items() if count > 1] == []


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
    """As a role with the rights of a worker, and no others. Its answers are SQLite's, in every case, and so
    is its audit."""

    @pytest.fixture
    async def store(self, clock: StoreClock, shared_postgres: Database) -> AsyncGenerator[Any]:
        async with shared_postgres.store(clock=clock) as store:
            twins = TwinStore(store, MemoryStore(clock=clock, shared=True))
            yield twins
            await twins.compare_audits()

    async def test_a_long_line_of_them(self, store: Any, me: int) -> None:
        """Without its twin: two thousand transactions, one after another, are enough."""
        await super().test_a_long_line_of_them(store.tested, me)
