"""A PostgreSQL for the whole session of tests, and a schema of its own for each of them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit
from uuid import uuid4

import asyncpg

from coordinator.servers.postgres import URL_VARIABLE, PostgresServer
from stores.postgres import Options, PostgresStore
from stores.sql.postgres import schema
from stores.sql.postgres.server import ISOLATION
from tests.support.proxy import Proxy

TABLES = (
    "workers",
    "threads",
    "deleted_threads",
    "passing_fences",
    "thread_states",
    "runs",
    "transitions",
    "webhooks",
    "crons",
    "assistants",
    "assistant_versions",
    "event_logs",
    "run_events",
    "projections",
    "run_changes",
)
_MAX_DELETED = 1 << 17  # bytes of a table
_EMPTY = """
DO $$ BEGIN
    IF greatest({sizes}) > {most} THEN
        TRUNCATE {tables};
    ELSE
        SET LOCAL session_replication_role = replica;  -- fires no trigger
        {deletes};
    END IF;
    PERFORM setval(oid, 1, false) FROM pg_class
        WHERE relkind = 'S' AND relnamespace = '{name}'::regnamespace;
END $$
"""
PASSWORD = "worker"  # of a role that exists on a server of the tests' own


class Database:
    """A database where tests may make schemas and roles. `url` is a superuser's."""

    def __init__(self, url: str, server: PostgresServer | None = None) -> None:
        self.url, self.server = url, server
        self._names: list[str] = []
        self._free: list[str] = []

    def as_role(self, role: str, password: str = PASSWORD) -> str:
        parts = urlsplit(self.url)
        hosts = parts.netloc.rpartition("@")[2]
        return urlunsplit(parts._replace(netloc=f"{role}:{quote(password)}@{hosts}"))

    @asynccontextmanager
    async def proxied(self, url: str | None = None) -> AsyncGenerator[tuple[Proxy, str]]:
        """A network of the test's own, and the URL through it."""
        parts = urlsplit(url or self.url)
        assert parts.hostname is not None
        async with Proxy(parts.hostname, parts.port or 5432) as proxy:
            who = parts.netloc.rpartition("@")[0]
            yield proxy, urlunsplit(parts._replace(netloc=f"{who}@127.0.0.1:{proxy.port}"))

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[asyncpg.Connection[Any]]:
        cx = await asyncpg.connect(self.url)
        try:
            yield cx
        finally:
            await cx.close()

    async def execute(self, *statements: str) -> None:
        async with self.connection() as cx:
            for statement in statements:
                await cx.execute(statement)

    @asynccontextmanager
    async def worker(self) -> AsyncGenerator[tuple[str, str]]:
        """(the URL of a role with a worker's rights and no others, a migrated schema with nothing in it)."""
        name = self._free.pop() if self._free else await self.made()
        try:
            yield self.as_role(name), name
        finally:
            await self.empty(name)
            self._free.append(name)

    async def empty(self, name: str) -> None:
        """Removes every row of the schema, and restarts its sequences. DELETE costs half as much as TRUNCATE,
        but leaves dead rows to later tests: once a table has grown, all are truncated."""
        tables = [f"{name}.{table}" for table in TABLES]
        await self.execute(
            _EMPTY.format(
                name=name,
                sizes=", ".join(f"pg_relation_size('{table}')" for table in tables),
                most=_MAX_DELETED,
                tables=", ".join(tables),
                deletes="; ".join(f"DELETE FROM {table}" for table in tables),
            )
        )

    async def made(self) -> str:
        """A migrated schema, and a role of the same name with a worker's rights in it."""
        name = f"test_{uuid4().hex[:12]}"
        async with self.connection() as cx:
            await cx.execute(f"SET default_transaction_isolation = '{ISOLATION}'")
            await cx.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'")
            await schema.migrate(cx, name)
            async with cx.transaction():
                await schema.grant(cx, name, name)
        self._names.append(name)
        return name

    async def clean(self) -> None:
        for name in self._names:
            await self.execute(f"DROP SCHEMA {name} CASCADE", f"DROP OWNED BY {name}", f"DROP ROLE {name}")

    @asynccontextmanager
    async def store(self, **options: Any) -> AsyncGenerator[PostgresStore]:
        """An open store on a schema of its own, as a role with a worker's rights."""
        clock = options.pop("clock", None)
        async with self.worker() as (url, name):
            store = PostgresStore(url, Options(schema=name, **options), migrate=False, clock=clock)
            try:
                await store.open()
                yield store
            finally:
                await store.aclose()


@contextmanager
def database() -> Generator[Database]:
    """Yields the server that COORDINATOR_TEST_POSTGRES_URL names, or one of the session's own. On the
    latter, a deadlock fails the session."""
    if url := os.environ.get(URL_VARIABLE):
        external = Database(url)
        yield external
        asyncio.run(external.clean())
        return
    with PostgresServer(durable=False) as server:
        yield Database(server.url(), server)
        log = server.log()
        assert "deadlock detected" not in log, log[log.index("deadlock detected") - 500 :][:3000]
