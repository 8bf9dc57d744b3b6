"""Builders of runs, workers and owned threads, for tests of the stores."""

from __future__ import annotations

import asyncio
import itertools
import re
import sqlite3
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from coordinator.testing.conformance.stores.builders import (
    ENDED,
    SUCCESS,
    StoreClock,
    admitted,
    cancel,
    created,
    holding,
    new_run,
    new_worker,
    row_of,
    running,
    waiting,
    worker_row,
)
from coordinator.testing.conformance.stores.builders import (
    declared_dead as fence_epoch,
)
from stores.postgres import PostgresStore
from tests.support.inside_stores import connect_as, connection_of
from tests.support.twins import TwinStore

__all__ = [
    "ENDED",
    "SUCCESS",
    "StoreClock",
    "admitted",
    "cancel",
    "created",
    "fence_epoch",
    "holding",
    "locked",
    "new_run",
    "new_worker",
    "row_of",
    "running",
    "sql_of",
    "stored",
    "waiting",
    "worker_row",
]


def sql_of(store: Any) -> Callable[..., list[Any]]:
    """Statements past the store, as an operator with a database shell would type them."""
    if isinstance(store, PostgresStore):
        return partial(_by_shell, store)
    if isinstance(store, TwinStore):
        return partial(_by_two_shells, store)
    path = getattr(store, "path", None)

    def execute(sql: str, *args: Any) -> list[Any]:
        if path is None:
            return list(connection_of(store).execute(sql, args))
        with closing(sqlite3.connect(path, timeout=5)) as cx, cx:
            return list(cx.execute(sql, args))

    return execute


def _by_shell(store: PostgresStore, sql: str, *args: Any) -> list[Any]:
    """Executes the statement through a connection of its own, in a thread of its own."""
    places = itertools.count(1)

    async def query() -> list[Any]:
        cx = await connect_as(store, statement_cache_size=0)
        try:
            async with cx.transaction():  # a pooler that stands in between knows nothing else
                await cx.execute(f"SET LOCAL search_path TO {store.schema}")
                numbered = re.sub(r"\?", lambda _: f"${next(places)}", sql)
                return [tuple(row) for row in await cx.fetch(numbered, *args)]
        finally:
            await cx.close()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, query()).result()


def _by_two_shells(store: TwinStore, sql: str, *args: Any) -> list[Any]:
    sql_of(store.reference)(sql, *args)
    return sql_of(store.tested)(sql, *args)


@contextmanager
def locked(path: Path) -> Generator[None]:
    """Another program holds the file's write lock, past the gate: every write times out."""
    with closing(sqlite3.connect(path, isolation_level=None)) as cx:
        cx.execute("BEGIN IMMEDIATE")
        yield
        cx.execute("ROLLBACK")


def stored(path: Path, sql: str = "SELECT run_id FROM runs") -> list[Any]:
    """The first column, as another program reads it from the file."""
    with closing(sqlite3.connect(path)) as cx:
        return [row[0] for row in cx.execute(sql)]
