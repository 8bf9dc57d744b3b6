from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest

from coordinator.langgraph.states import GraphStates
from tests.langgraph.savers.databases import (
    CheckpointDatabase,
    PostgresDatabase,
    SQLiteDatabase,
    postgres_database,
)
from tests.support.postgres import Database


@pytest.fixture(scope="session")
def checkpoint_postgres(shared_postgres: Database) -> Generator[PostgresDatabase]:
    """One database for all tests: making one takes longer than most of them."""
    with postgres_database(shared_postgres) as made:
        yield made


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> CheckpointDatabase:
    if request.param == "sqlite":
        return SQLiteDatabase(tmp_path / "checkpoints.db")
    postgres: PostgresDatabase = request.getfixturevalue("checkpoint_postgres")
    asyncio.run(postgres.empty())
    return postgres


@pytest.fixture
async def states(database: CheckpointDatabase) -> AsyncGenerator[GraphStates]:
    states = database.states()
    async with states.opened():
        yield states
