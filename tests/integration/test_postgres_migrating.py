"""`db migrate` beside sessions that are in its way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from stores.errors import StoreUnavailable
from stores.postgres import Options, PostgresStore, migrating
from stores.sql.migration import Migration
from stores.sql.postgres import schema, scripts
from tests.support.builders import new_worker
from tests.support.postgres import Database
from tests.support.waiting import wait_until

EVERY = scripts.migrations()
NEXT = Migration(EVERY[-1].number + 1, "9999_next", "ALTER TABLE rc.workers ADD COLUMN next_column int;")


@pytest.fixture
async def name(shared_postgres: Database) -> AsyncGenerator[str]:
    """A migrated schema of the test's own."""
    made = f"made_{uuid4().hex[:12]}"
    async with shared_postgres.connection() as cx:
        await schema.migrate(cx, made)
    yield made
    await shared_postgres.execute(f"DROP SCHEMA {made} CASCADE")


@pytest.fixture
def one_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A migration that wants a table for itself."""
    for module in (schema, scripts):
        monkeypatch.setattr(module, "migrations", lambda: (*EVERY, NEXT))


@asynccontextmanager
async def dump(database: Database, name: str) -> AsyncGenerator[asyncpg.Connection[Any]]:
    """A backup that reads a table for as long as this is open, as pg_dump does."""
    cx = await asyncpg.connect(database.url, server_settings={"application_name": "a backup"})
    try:
        await cx.execute("BEGIN")
        await cx.execute(f"LOCK TABLE {name}.workers IN ACCESS SHARE MODE")
        yield cx
    finally:
        await cx.close()


async def test_heartbeats_go_on_while_a_migration_waits_for_a_backup(
    shared_postgres: Database, name: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    worker = PostgresStore(shared_postgres.url, Options(schema=name, busy_timeout=30))
    await worker.open()
    epoch = await worker.register(new_worker())
    request.getfixturevalue("one_more")
    lines = list[str]()
    reported = asyncio.Event()

    def report(line: str) -> None:
        lines.append(line)
        reported.set()

    store = PostgresStore(shared_postgres.url, Options(schema=name))
    async with dump(shared_postgres, name) as backup:
        migrating = asyncio.create_task(store.migrate(report=report))
        await asyncio.wait_for(reported.wait(), 20)
        pid = backup.get_server_pid()
        assert [f"session {pid} of 'postgres' ('a backup'" in line for line in lines] == [True]
        async with asyncio.timeout(20):  # behind each attempt it waits for at most two seconds
            for _ in range(3):
                assert await worker.beat(epoch)
        assert not migrating.done()
    assert await migrating == [NEXT.name]
    assert await worker.beat(epoch)
    await worker.aclose()


async def test_migration_that_gets_no_lock_in_time_names_who_has_it_and_changes_nothing(
    shared_postgres: Database, name: str, one_more: None
) -> None:
    store = PostgresStore(shared_postgres.url, Options(schema=name))
    async with dump(shared_postgres, name):
        with pytest.raises(StoreUnavailable, match=r"'a backup'.*was in the way.*Nothing was changed"):
            await store.migrate(patience=0, report=lambda _: None)
    async with shared_postgres.connection() as cx:
        assert await schema.version(cx, name) == EVERY[-1].number


async def test_names_of_those_in_the_way_are_escaped(
    shared_postgres: Database, name: str, one_more: None
) -> None:
    lines = list[str]()
    store = PostgresStore(shared_postgres.url, Options(schema=name))
    async with dump(shared_postgres, name) as backup:
        await backup.execute("SET application_name = 'evil\n\x1b[31m'")
        migrating = asyncio.create_task(store.migrate(report=lines.append))
        await wait_until(lambda: bool(lines), description="the session in the way is reported")
    await migrating
    assert lines[0].isprintable()


async def test_blocking_sessions_are_read_at_intervals(
    shared_postgres: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A migration that waits does not keep the server busy."""
    monkeypatch.setattr(migrating, "LOOK_EVERY", 0.01)
    reads = list[str]()

    def read(query: asyncpg.connection.LoggedQuery) -> None:
        reads.append(query.query)
        monkeypatch.setattr(migrating, "LOOK_EVERY", 3600)  # this read may be the last but one

    @asynccontextmanager
    async def counted() -> AsyncGenerator[asyncpg.Connection[Any]]:
        async with shared_postgres.connection() as cx:
            cx.add_query_logger(read)
            yield cx

    watched = migrating.Watched(counted, print)
    watched.begin(0)
    try:
        async with shared_postgres.connection() as cx:
            await wait_until(lambda: reads, description="the sessions are read")
            for _ in range(20):
                await cx.execute("SELECT 1")
        assert len(reads) <= 2
    finally:
        await watched.end()
