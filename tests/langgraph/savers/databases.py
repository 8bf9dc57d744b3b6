"""Databases of checkpoints, and what is in them."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from coordinator.langgraph.states import GraphStates, postgres_states, sqlite_states
from tests.support.postgres import Database

Rows = dict[str, list[tuple[Any, ...]]]


class CheckpointDatabase(Protocol):
    url: str

    def states(self, **options: Any) -> GraphStates:
        """As of one more process."""
        ...

    def stock(self) -> Any:
        """LangGraph's own saver, as a context manager."""
        ...

    async def rows(self, *tables: str) -> Rows:
        """All rows of LangGraph's tables, or of `tables`, in the order of their keys."""
        ...


class SQLiteDatabase:
    tables = ("checkpoints", "writes")

    def __init__(self, path: Path) -> None:
        self.path, self.url = path, str(path)

    def states(self, **options: Any) -> GraphStates:
        return sqlite_states(self.path, **options)

    @asynccontextmanager
    async def stock(self) -> AsyncGenerator[BaseCheckpointSaver[str]]:
        async with AsyncSqliteSaver.from_conn_string(str(self.path)) as saver:
            await saver.setup()
            yield saver

    async def rows(self, *tables: str) -> Rows:
        with closing(sqlite3.connect(self.path)) as cx:
            return {
                table: sorted(cx.execute(f"SELECT * FROM {table}").fetchall(), key=repr)
                for table in tables or self.tables
            }


class PostgresDatabase:
    tables = ("checkpoints", "checkpoint_blobs", "checkpoint_writes")

    def __init__(self, url: str) -> None:
        self.url = url

    def states(self, **options: Any) -> GraphStates:
        return postgres_states(self.url, **options)

    @asynccontextmanager
    async def stock(self) -> AsyncGenerator[BaseCheckpointSaver[str]]:
        async with AsyncPostgresSaver.from_conn_string(self.url) as saver:
            await saver.setup()
            yield saver

    async def rows(self, *tables: str) -> Rows:
        cx = await asyncpg.connect(self.url)
        try:
            return {
                table: sorted((tuple(row) for row in await cx.fetch(f"SELECT * FROM {table}")), key=repr)
                for table in tables or self.tables
            }
        finally:
            await cx.close()

    async def clone(self, twin: PostgresDatabase) -> None:
        """Makes `twin` anew, with nothing in it."""
        name = urlsplit(twin.url).path.strip("/")
        cx = await asyncpg.connect(self.url)
        try:
            await cx.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            await cx.execute(f"CREATE DATABASE {name}")
        finally:
            await cx.close()

    async def empty(self) -> None:
        cx = await asyncpg.connect(self.url)
        try:
            for (table,) in await cx.fetch(
                "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
                " AND tablename <> 'checkpoint_migrations'"
            ):
                await cx.execute(f"DELETE FROM {table}")
        finally:
            await cx.close()


@contextmanager
def postgres_database(server: Database) -> Generator[PostgresDatabase]:
    name = f"checkpoints_{uuid4().hex[:12]}"
    asyncio.run(server.execute(f"CREATE DATABASE {name}"))
    try:
        yield PostgresDatabase(urlunsplit(urlsplit(server.url)._replace(path=f"/{name}")))
    finally:
        for each in (name, f"{name}_twin"):
            asyncio.run(server.execute(f"DROP DATABASE IF EXISTS {each} WITH (FORCE)"))
