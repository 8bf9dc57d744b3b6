"""The store on a PostgreSQL server of its own; each worker connects through a proxy of its own."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg

from coordinator.servers.postgres import PostgresServer
from stores.postgres import Options, PostgresStore
from stores.postgres.faults import AGAIN, fault_of
from stores.sql.postgres.schema import named
from tests.faults.engine import Engine, Link
from tests.support.postgres import Database

_PATIENCE = 30.0  # s that a query waits for a server that is away
_SMALL = {"max_wal_size": "32MB", "min_wal_size": "32MB"}
"""For a small disk."""

_WITNESS = """
CREATE TABLE rc.test_saves (id bigint GENERATED ALWAYS AS IDENTITY, run_id text, epoch bigint, n bigint);
CREATE TABLE rc.test_deaths (epoch bigint PRIMARY KEY, by bigint, save bigint, transition bigint);
CREATE FUNCTION rc.test_saves_log() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO rc.test_saves (run_id, epoch, n)
        SELECT v ->> 'by', (v ->> 'epoch')::bigint, (v ->> 'n')::bigint
        FROM (SELECT NEW."values"::json) AS saved (v) WHERE v ->> 'by' IS NOT NULL;
    RETURN NULL;
END $$;
CREATE TRIGGER test_saves_log AFTER UPDATE OF "values" ON rc.threads
    FOR EACH ROW EXECUTE FUNCTION rc.test_saves_log();
CREATE FUNCTION rc.test_deaths_log() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.state = 'dead' AND OLD.state <> 'dead' THEN
        INSERT INTO rc.test_deaths VALUES (NEW.epoch, NEW.fenced_by,
            (SELECT COALESCE(max(id), 0) FROM rc.test_saves),
            (SELECT COALESCE(max(id), 0) FROM rc.transitions));
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER test_deaths_log AFTER UPDATE OF state ON rc.workers
    FOR EACH ROW EXECUTE FUNCTION rc.test_deaths_log();
"""
"""Ids are not in commit order. But the transaction that declares a worker dead waits for its writes in
progress, and later writes wait for that transaction. So the largest id that it reads divides the ids of the
worker's writes into those before and those after."""

_KEPT = ("runs", "threads", "workers", "transitions", "test_saves", "test_deaths")


class Postgres(Engine):
    proves_death = True

    def __init__(
        self, server: PostgresServer, thread: ThreadPoolExecutor, name: str, pool: asyncpg.Pool[Any]
    ) -> None:
        self.server, self.name, self._thread = server, name, thread
        self._database = Database(server.url(), server)
        self._pool = pool

    @asynccontextmanager
    async def link(self) -> AsyncGenerator[Link]:
        async with self._database.proxied(self._database.as_role(self.name)) as (proxy, url):
            yield Link({"store": url, "postgres_schema": self.name}, proxy)

    async def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        numbers = count(1)
        sql = re.sub(r"\?", lambda _: f"${next(numbers)}", sql)
        until = asyncio.get_running_loop().time() + _PATIENCE
        while True:
            try:
                return [tuple(row) for row in await self._pool.fetch(sql, *parameters)]
            except Exception as error:
                if fault_of(error).kind not in AGAIN or asyncio.get_running_loop().time() > until:
                    raise
            await asyncio.sleep(0.02)

    def store(self) -> PostgresStore:
        return PostgresStore(self.server.url(), Options(schema=self.name), migrate=False)

    async def complaints(self) -> list[str]:
        damage: list[str] = []
        try:
            damage += [f"a table is damaged: {row}" for row in await self.query(_HEAPS, self.name)]
            await self.query(_INDEXES, self.name)
        except asyncpg.IndexCorruptedError as error:
            damage.append(f"an index is damaged: {error}")
        if "deadlock detected" in (log := self.server.log()):
            damage.append(f"a deadlock: {log[log.index('deadlock detected') :][:1000]}")
        return damage

    async def keep(self, folder: Path) -> None:
        (folder / "server.log").write_text(self.server.log())
        with suppress(OSError, asyncpg.PostgresError):  # it may be what is wrong
            async with self._database.connection() as cx:
                for table in _KEPT:
                    path = folder / f"{table}.csv"
                    await cx.copy_from_table(
                        table, schema_name=self.name, output=path, format="csv", header=True
                    )

    async def crash(self) -> None:
        await self._there(self.server.stop, "immediate")

    async def start(self) -> None:
        """Returns when it accepts connections. Raises ServerError."""
        await self._there(self.server.start)

    async def answers(self) -> bool:
        """Returns True if it accepts a connection now."""
        try:
            async with asyncio.timeout(2), self._database.connection():
                return True
        except (OSError, asyncpg.PostgresError):
            return False

    async def _there(self, act: Callable[..., Any], *arguments: Any) -> Any:
        """Calls `act` in the server's thread, because the server ends with the thread that starts it."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, act, *arguments)

    async def terminate(self) -> int:
        """Ends every session of the workers and returns how many there were."""
        ((ended,),) = await self.query(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = ?", self.name
        )
        return ended

    @asynccontextmanager
    async def locked(self) -> AsyncGenerator[None]:
        """Holds a lock on the table of runs in a transaction of another client."""
        async with self._database.connection() as cx, cx.transaction():
            await cx.execute(f"LOCK TABLE {self.name}.runs IN ACCESS EXCLUSIVE MODE")
            yield


_HEAPS = """
SELECT c.relname, v.* FROM pg_class c, verify_heapam(c.oid) v
WHERE c.relnamespace = to_regnamespace(?) AND c.relkind = 'r'
"""
_INDEXES = """
SELECT bt_index_check(c.oid, true) FROM pg_class c JOIN pg_am m ON m.oid = c.relam
WHERE c.relnamespace = to_regnamespace(?) AND m.amname = 'btree' AND c.relkind = 'i'
"""
"""Raises IndexCorruptedError for a damaged index."""


@asynccontextmanager
async def on_postgres(disk: Path | None = None) -> AsyncGenerator[Postgres]:
    """`disk`: a small one that its cluster is made on."""
    with ThreadPoolExecutor(1, "postgres") as thread:
        server = PostgresServer(
            durable=False, data=disk and disk / "cluster", settings=_SMALL if disk else {}
        )
        try:
            await asyncio.wrap_future(thread.submit(server.start))
            database = Database(server.url(), server)
            name = await database.made()
            await database.execute("CREATE EXTENSION amcheck", named(_WITNESS, name))
            settings = {"search_path": f"{name}, public"}
            async with asyncpg.create_pool(
                server.url(), min_size=0, max_size=2, server_settings=settings
            ) as pool:
                yield Postgres(server, thread, name, pool)
        finally:
            await asyncio.wrap_future(thread.submit(server.close))
