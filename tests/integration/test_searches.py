"""Searches and counts that would take long: stopped at their deadline, and when their caller is cancelled;
no other read waits for them, and no user's for another's."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from stores.catalogue import NewThread, ThreadQuery
from stores.crons import CronQuery
from stores.errors import SearchTooLong, StoreUnavailable
from stores.memory import MemoryStore
from stores.postgres import PostgresStore
from stores.sql.postgres.calls import Call, Query, scalar
from stores.sqlite import SQLiteStore
from tests.support.inside_stores import pool_of, search_of
from tests.support.postgres import Database
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_task_left")

COUNTED = "WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"
COMPARED = f"{COUNTED} WHERE NOT json_contains(:whole || substr(' ', 1, x % 2), :part)"  # anew for each x
LONG = json.dumps([{"a": 1}] * 1000)
PART = json.dumps([{"b": number} for number in range(20)])
ENDLESS = {"in SQLite": COUNTED, "in Python": COMPARED}
SOON = 30.0  # s; without an end it would be minutes


def endless(cx: sqlite3.Connection, statement: str, user_id: str | None) -> object:
    del user_id
    return cx.execute(statement, {"whole": LONG, "part": PART}).fetchone()


def asleep(seconds: float, user_id: str | None) -> Call[object]:
    del user_id
    return Call(Query("SELECT pg_sleep($1)"), (float(seconds),), scalar)


@asynccontextmanager
async def on_sqlite(folder: Path, search_timeout: float) -> AsyncGenerator[SQLiteStore]:
    store = SQLiteStore(folder / "runs.db", search_timeout=search_timeout)
    await store.open()
    try:
        await store.create_thread(NewThread("t", "u", {"a": 1}))
        yield store
    finally:
        await store.aclose()


@asynccontextmanager
async def on_postgres(database: Database, **options: Any) -> AsyncGenerator[PostgresStore]:
    async with database.store(**options) as store:
        await store.create_thread(NewThread("t", "u", {"a": 1}))
        yield store


async def matching_threads(store: Any, user_id: str | None = "u") -> list[str]:
    return [row.thread_id for row in await store.threads(ThreadQuery(metadata={"a": 1}), user_id=user_id)]


# -- SQLite


@pytest.mark.parametrize("statement", ENDLESS.values(), ids=ENDLESS)
async def test_sqlite_stops_a_search_at_its_deadline(tmp_path: Path, statement: str) -> None:
    async with on_sqlite(tmp_path, search_timeout=0.1) as store, asyncio.timeout(SOON):
        with pytest.raises(SearchTooLong, match=r"0\.1 s"):
            await search_of(store)(endless, statement, "u")
        assert await matching_threads(store) == ["t"]


@pytest.mark.parametrize("statement", ENDLESS.values(), ids=ENDLESS)
async def test_sqlite_stops_a_search_whose_caller_is_cancelled(tmp_path: Path, statement: str) -> None:
    async with on_sqlite(tmp_path, search_timeout=3600) as store, asyncio.timeout(SOON):
        reads = store.reads
        search = asyncio.ensure_future(search_of(store)(endless, statement, "u"))
        await wait_until(lambda: store.reads > reads, description="the search is on its way")
        waiting = asyncio.ensure_future(matching_threads(store))
        assert await store.thread("t") is not None, "other reads do not wait"
        search.cancel()
        assert await waiting == ["t"]
        assert search.cancelled()


async def test_sqlite_searches_of_one_user_do_not_keep_another_from_searching(tmp_path: Path) -> None:
    async with on_sqlite(tmp_path, search_timeout=1.0) as store, asyncio.timeout(SOON):
        searches = [search_of(store)(endless, COUNTED, "alice") for _ in range(6)]
        *answers, threads = await asyncio.gather(*searches, matching_threads(store), return_exceptions=True)
        assert threads == ["t"]
        assert isinstance(answers[0], SearchTooLong)
        assert isinstance(answers[-1], StoreUnavailable), "her own wait too long"
        assert {type(answer) for answer in answers} == {SearchTooLong, StoreUnavailable}


async def test_sqlite_searches_of_crons_delay_no_other_read(tmp_path: Path) -> None:
    async with on_sqlite(tmp_path, search_timeout=3600) as store, asyncio.timeout(SOON):
        search = asyncio.ensure_future(search_of(store)(endless, COUNTED, "u"))
        waiting = asyncio.ensure_future(store.count_crons(CronQuery(metadata={"a": 1}), user_id="u"))
        assert await store.thread("t") is not None
        assert not waiting.done(), "it is a search as well, over the same connection"
        search.cancel()
        assert await waiting == 0


async def test_memory_stops_a_search_at_its_deadline() -> None:
    store = MemoryStore(search_timeout=0.1)
    await store.create_thread(NewThread("t", "u", {"a": 1}))
    for statement in ENDLESS.values():
        with pytest.raises(SearchTooLong):
            await search_of(store)(endless, statement, "u")
    assert await matching_threads(store) == ["t"]


# -- PostgreSQL


@pytest.mark.parametrize("statement_cache", [200, 0], ids=["", "behind a pooler"])
async def test_postgres_stops_a_search_at_its_deadline(
    shared_postgres: Database, statement_cache: int
) -> None:
    async with (
        on_postgres(shared_postgres, search_timeout=0.1, statement_cache=statement_cache) as store,
        asyncio.timeout(SOON),
    ):
        with pytest.raises(SearchTooLong, match=r"0\.1 s"):
            await search_of(store)(asleep, 3600, "u")
        assert await matching_threads(store) == ["t"]
        async with store.connection() as cx:
            asleep_still = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'"
            assert await cx.fetchval(f"{asleep_still} AND state = 'active'") == 0
        limit = await pool_of(store).run(Call(Query("SHOW statement_timeout"), (), scalar), reads=True)
        assert limit != "100ms", "the limit is that of the search alone"


async def test_a_search_takes_one_core_of_the_server(shared_postgres: Database) -> None:
    def helpers(_: object, user_id: str | None) -> Call[Any]:
        del user_id
        return Call(Query("SHOW max_parallel_workers_per_gather"), (), scalar)

    async with on_postgres(shared_postgres) as store:
        assert await search_of(store)(helpers, None, "u") == "0"
        elsewhere = await pool_of(store).run(helpers(None, None), reads=True)
        assert elsewhere != "0", "the limit is that of the search alone"


async def test_postgres_stops_a_search_whose_caller_is_cancelled(shared_postgres: Database) -> None:
    async with (
        on_postgres(shared_postgres, search_timeout=3600, connections=1) as store,
        asyncio.timeout(SOON),
    ):
        search = asyncio.ensure_future(search_of(store)(asleep, 3600, "u"))
        async with shared_postgres.connection() as cx:

            async def asleep_now() -> bool:
                return bool(
                    await cx.fetchval(
                        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'"
                        " AND state = 'active'"
                    )
                )

            await wait_until(asleep_now, description="the server is at it")
            search.cancel()
            assert await matching_threads(store) == ["t"]
            assert not await asleep_now()


async def test_postgres_keeps_connections_from_searches(shared_postgres: Database) -> None:
    async with (
        on_postgres(shared_postgres, search_timeout=3600, connections=4) as store,
        asyncio.timeout(SOON),
    ):
        searches = [asyncio.ensure_future(search_of(store)(asleep, 3600, "alice")) for _ in range(10)]
        await asyncio.sleep(0)
        assert await store.thread("t", user_id="u") is not None
        for search in searches:
            search.cancel()
        await asyncio.wait(searches)
        assert await matching_threads(store) == ["t"]
