"""The store of graphs: what all threads share (`runtime.store`), in SQLite, PostgreSQL or memory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from langgraph.store.base import BaseStore, IndexConfig, TTLConfig
from langgraph.store.memory import InMemoryStore

from coordinator.errors import InvalidArgument
from coordinator.schemas import Json

logger = logging.getLogger(__name__)

_SETUPS = 10
"""Attempts to create the tables: workers that start together disturb each other."""
_SETUP_DELAY = 0.1  # s


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """`index`: semantic search; `ttl`: the time to live of items."""

    index: IndexConfig | None = None
    ttl: TTLConfig | None = None


def memory_store(options: StoreOptions) -> AbstractAsyncContextManager[BaseStore]:
    return _in_memory(options)


@asynccontextmanager
async def _in_memory(options: StoreOptions) -> AsyncGenerator[BaseStore]:
    yield InMemoryStore(index=options.index)


@asynccontextmanager
async def sqlite_store(path: Path, options: StoreOptions) -> AsyncGenerator[BaseStore]:
    from langgraph.store.sqlite.aio import AsyncSqliteStore  # noqa: PLC0415 - only where it is chosen

    opening = AsyncSqliteStore.from_conn_string(str(path), index=cast("Json", options.index), ttl=options.ttl)
    async with opening as store:
        await store.conn.execute("PRAGMA busy_timeout=5000")
        try:
            await _set_up(store)
        except AttributeError as error:  # of a connection without `enable_load_extension`
            raise InvalidArgument(
                "store.index",
                f"this Python cannot load the extension of SQLite for semantic search ({error}):"
                " use PostgreSQL with pgvector, or a Python whose sqlite3 loads extensions",
            ) from error
        async with _running(store, options):
            yield store


@asynccontextmanager
async def postgres_store(dsn: str, options: StoreOptions) -> AsyncGenerator[BaseStore]:
    from langgraph.store.postgres.aio import AsyncPostgresStore  # noqa: PLC0415 - only where it is chosen

    opening = AsyncPostgresStore.from_conn_string(
        dsn, pool_config={"min_size": 1, "max_size": 4}, index=cast("Json", options.index), ttl=options.ttl
    )
    async with opening as store:
        try:
            await _set_up(store)
        except Exception as error:
            if options.index is None or not _lacks_pgvector(error):
                raise
            raise InvalidArgument(
                "store.index",
                f"the database cannot have the extension vector ({str(error).splitlines()[0]}): install"
                " pgvector, execute CREATE EXTENSION vector as a superuser, or remove the key",
            ) from error
        async with _running(store, options):
            yield store


def _lacks_pgvector(error: Exception) -> bool:
    """Returns True if the extension is not installed, or this role may not create it."""
    return getattr(error, "sqlstate", None) in ("0A000", "58P01", "42501") and "vector" in str(error)


async def _set_up(store: Json) -> None:
    for attempt in range(1, _SETUPS + 1):
        try:
            await store.setup()
        except Exception as error:
            if attempt == _SETUPS or isinstance(error, AttributeError) or _lacks_pgvector(error):
                raise
            logger.debug("the tables of the store cannot be created yet", exc_info=True)
            await asyncio.sleep(_SETUP_DELAY)
        else:
            return


@asynccontextmanager
async def _running(store: Json, options: StoreOptions) -> AsyncGenerator[None]:
    """Sweep expired items, and end the store's tasks afterwards."""
    if options.ttl is not None:
        await store.start_ttl_sweeper()
    try:
        yield
    finally:
        if options.ttl is not None:
            await store.stop_ttl_sweeper(timeout=1)
        batches: asyncio.Task[None] | None = getattr(store, "_task", None)
        if batches is not None:  # the store itself cancels it when it is collected
            batches.cancel()
            await asyncio.wait((batches,))
