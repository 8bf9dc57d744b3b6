"""What a server, its database and its role must be, and what the store sets for itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest

from stores.errors import EpochDead, StaleFence, StoreRefused
from stores.postgres import Options, PostgresStore
from stores.rows import Limits, Ownership
from stores.sql.postgres import schema
from tests.integration.test_postgres_schema import admin
from tests.support.builders import SUCCESS, holding, new_run, new_worker, running
from tests.support.command_line import UNREACHABLE
from tests.support.inside_stores import batch_pool_of, pool_of, urgent_pool_of
from tests.support.postgres import Database
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_task_left")


@asynccontextmanager
async def with_isolation(database: Database, level: str) -> AsyncGenerator[tuple[str, str]]:
    """(the URL of a worker's role that has this default, its schema)."""
    async with database.worker() as (url, name):
        await database.execute(f"ALTER ROLE {name} SET default_transaction_isolation = '{level}'")
        try:
            yield url, name
        finally:
            await database.execute(f"ALTER ROLE {name} RESET default_transaction_isolation")


Write = Callable[[PostgresStore, Ownership], Awaitable[Any]]
WRITES: dict[str, Write] = {
    "admit": lambda store, own: store.admit(new_run("u"), epoch=own.epoch, limits=Limits()),
    "start": lambda store, own: store.start(own, {}),
    "finish": lambda store, own: store.finish(own, SUCCESS),
    "save": lambda store, own: store.save(own, {"n": 1}),
}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_write_of_a_worker_declared_dead_meanwhile_is_refused_at_any_isolation(
    shared_postgres: Database, level: str, write: str
) -> None:
    async with with_isolation(shared_postgres, level) as (url, name), shared_postgres.connection() as cx:
        store = PostgresStore(url, Options(schema=name), migrate=False)
        await store.open()
        try:
            epoch = await store.register(new_worker())
            own = await (holding if write == "start" else running)(store, epoch)
            async with cx.transaction():
                await cx.execute(f"SELECT {name}.change_worker($1)", epoch)
                writing = asyncio.ensure_future(WRITES[write](store, own))
                waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
                await wait_until(
                    lambda: cx.fetchval(waits), description="it waits for the change of the worker's row"
                )
                await cx.execute(f"UPDATE {name}.workers SET state = 'dead' WHERE epoch = $1", epoch)
            try:
                answer = await writing
            except (EpochDead, StaleFence):
                return
            assert answer is None or answer.lost
        finally:
            await store.aclose()


async def test_isolation_that_a_session_cannot_set_is_refused(shared_postgres: Database) -> None:
    async with with_isolation(shared_postgres, "serializable") as (url, name):
        behind_a_pooler = PostgresStore(url, Options(schema=name, statement_cache=0), migrate=False)
        with pytest.raises(StoreRefused, match="default_transaction_isolation"):
            await behind_a_pooler.open()


async def test_sessions_compile_nothing(shared_postgres: Database) -> None:
    async with shared_postgres.store() as store:
        for pool in (pool_of(store), batch_pool_of(store), urgent_pool_of(store)):
            until = asyncio.get_running_loop().time() + 10
            assert [tuple(row) for row in await pool.rows_once("SHOW jit", (), until)] == [("off",)]


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_database_that_cannot_hold_every_text_is_refused(
    shared_postgres: Database, namespace: str, encoding: str
) -> None:
    name = namespace.replace("-", "_")
    create = f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
    await shared_postgres.execute(create)
    try:
        url = urlunsplit(urlsplit(shared_postgres.url)._replace(path=f"/{name}"))
        with pytest.raises(StoreRefused, match=f"{encoding}.*UTF8"):
            await PostgresStore(url).open()
        for command in (("db", "migrate"), ("db", "check")):
            answer = await admin(Database(url), "coordinator", *command, "--json")
            assert (answer.code, answer.error["type"]) == (UNREACHABLE, "StoreRefused")
    finally:
        await shared_postgres.execute(f"DROP DATABASE {name}")


async def test_server_that_is_too_old_is_refused(
    shared_postgres: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stores.sql.postgres.server.OLDEST", 99)
    async with shared_postgres.worker() as (url, name):
        with pytest.raises(StoreRefused, match="99 or newer"):
            await PostgresStore(url, Options(schema=name), migrate=False).open()
    async with shared_postgres.connection() as cx:
        with pytest.raises(StoreRefused, match="99 or newer"):
            await schema.migrate(cx, "never")
