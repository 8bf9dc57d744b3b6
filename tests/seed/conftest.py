"""Managers over every kind of store that an existing caller may pass."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest

from coordinator import MemoryRunStore, RunManager, Settings
from stores.memory import MemoryStore
from stores.sqlite import SQLiteStore
from tests.support.runs import managing

STORES: dict[str, Callable[[Path], Any]] = {
    "no store": lambda folder: None,
    "records": lambda folder: MemoryRunStore(),
    "memory": lambda folder: MemoryStore(),
    "sqlite": lambda folder: SQLiteStore(folder / "runs.db", synchronous="NORMAL"),
}
RECORDED = [name for name in STORES if name != "no store"]


@pytest.fixture(params=STORES)
async def manager(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[RunManager]:
    """A manager without a store, over a gateway's record store, over the memory store and over SQLite."""
    async with managing(STORES[request.param](tmp_path), settings=Settings(force_after=5)) as made:
        await made.open()
        yield made


@pytest.fixture(params=RECORDED)
async def recorded(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[RunManager]:
    """As `manager`, over those stores that have rows."""
    async with managing(STORES[request.param](tmp_path), settings=Settings(force_after=5)) as made:
        await made.open()
        yield made


@pytest.fixture
def store() -> MemoryRunStore:
    return MemoryRunStore()


@pytest.fixture
async def plain(store: MemoryRunStore) -> AsyncGenerator[RunManager]:
    """A manager over `store`, a record store whose methods a test may replace."""
    async with managing(store) as made:
        yield made
