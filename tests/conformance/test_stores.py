"""The same suite on every store."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from coordinator.testing import conformance
from coordinator.testing.conformance import Check, StoreCase
from stores.base import CoordinationStore
from stores.memory import MemoryStore
from stores.sqlite import SQLiteStore
from tests.conformance.run_store import StoreConformance
from tests.support.builders import StoreClock, sql_of
from tests.support.postgres import Database
from tests.support.twins import TwinStore

CONCURRENT = [check for check in conformance.STORE if "concurrent" in check.name or "at_once" in check.name]


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
    """As a role with only the rights of a worker. Answers, rows and audit equal SQLite's in every case."""

    @pytest.fixture
    async def store(self, clock: StoreClock, shared_postgres: Database) -> AsyncGenerator[Any]:
        async with shared_postgres.store(clock=clock) as store:
            twins = TwinStore(store, MemoryStore(clock=clock, shared=True))
            yield twins
            await twins.compare_tables()

    @pytest.mark.parametrize("check", CONCURRENT, ids=str)
    async def test_keeps_its_promise_where_calls_overlap(
        self, shared_postgres: Database, clock: StoreClock, check: Check[StoreCase]
    ) -> None:
        """Twins make one call at a time."""
        async with shared_postgres.store(clock=clock) as store:
            await check(StoreCase(store, clock))

    async def test_a_long_line_of_them(self, store: Any, me: int) -> None:
        """Without the twin: two thousand transactions in sequence are enough."""
        await super().test_a_long_line_of_them(store.parted(), me)


async def test_a_row_that_is_another_one_is_found(shared_postgres: Database) -> None:
    clock = StoreClock()
    async with shared_postgres.store(clock=clock) as store:
        twins: Any = TwinStore(store, MemoryStore(clock=clock, shared=True))
        await twins.put("r", thread_id="t")
        await twins.compare_tables()
        sql_of(twins.reference)("UPDATE threads SET next_seq = 9")
        with pytest.raises(AssertionError, match=r"threads.*next_seq.*9"):
            await twins.compare_tables()
