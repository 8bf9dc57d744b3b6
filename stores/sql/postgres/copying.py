"""A schema as the target of a copy. No store opens it before the copy is complete."""

from __future__ import annotations

import json
from collections.abc import Sequence

from stores.errors import StoreRefused
from stores.sql.columns import Column, Columns, Convert
from stores.sql.postgres import schema as schemas
from stores.sql.postgres.calls import Connection
from stores.sql.postgres.codec import plain, text
from stores.sql.tables import TABLES, Table

_COLUMNS = (
    "SELECT column_name, data_type FROM information_schema.columns"
    " WHERE table_schema = $1 AND table_name = $2"
)
_CONVERT: dict[str, Convert] = {"boolean": bool, "ARRAY": json.loads, "text": text}
_RESTART = "drop the schema and copy again"


class Target:
    """Over one connection. `await begin(…)` first."""

    def __init__(self, cx: Connection, schema: str) -> None:
        self._cx, self._schema = cx, schema
        self._convert: dict[str, list[Convert | None]] = {}
        self._names: dict[str, tuple[str, ...]] = {}

    async def begin(self, source: str, columns: dict[str, tuple[str, ...]]) -> None:
        """Make the schema, or continue where an earlier copy from the same source has ended.

        Raises StoreRefused: another copy is under way, something else is in it, columns do not fit.
        """
        if not await self._cx.fetchval(
            "SELECT pg_try_advisory_lock(hashtext('run-coordinator copy'), hashtext($1))", self._schema
        ):
            raise StoreRefused(f"another process copies into schema {self._schema!r} at this moment")
        async with self._cx.transaction():
            if await self._cx.fetchval(
                "SELECT to_regclass(quote_ident($1) || '.copying') IS NULL", self._schema
            ):
                await self._begin_anew(source)
        begun = await self._cx.fetchval(self._named("SELECT source FROM rc.copying"))
        if begun != source:
            raise StoreRefused(f"schema {self._schema!r} holds half a copy of {begun}: {_RESTART}")
        for table in TABLES:
            await self._fit(table, columns[table.name])

    async def _begin_anew(self, source: str) -> None:
        await schemas.migrate(self._cx, self._schema)
        for table in TABLES:
            if await self._cx.fetchval(self._named(f"SELECT EXISTS (SELECT FROM rc.{table.name})")):
                raise StoreRefused(
                    f"schema {self._schema!r} is not empty ({table.name}): name another one (postgres_schema)"
                )
            # The audit is copied, and must not be written again by triggers.
            await self._cx.execute(self._named(f"ALTER TABLE rc.{table.name} DISABLE TRIGGER USER"))
        await self._cx.execute(self._named("CREATE TABLE rc.copying (source text NOT NULL)"))
        await self._cx.execute(self._named("INSERT INTO rc.copying VALUES ($1)"), source)

    async def _fit(self, table: Table, names: tuple[str, ...]) -> None:
        types = dict(await self._cx.fetch(_COLUMNS, self._schema, table.name))
        if missing := [name for name in names if name not in types]:
            raise StoreRefused(f"{table.name} has no column {', '.join(missing)} here")
        self._names[table.name] = names
        self._convert[table.name] = [_CONVERT.get(types[name]) for name in names]

    async def last_key(self, table: Table) -> tuple[Column, ...] | None:
        """As the source stores it; None where the table is empty."""
        key = ", ".join(table.key)
        order = ", ".join(f"{name} DESC" for name in table.key)
        last = await self._cx.fetchrow(
            self._named(f"SELECT {key} FROM rc.{table.name} ORDER BY {order} LIMIT 1")
        )
        return None if last is None else tuple(plain(value) for value in last)

    async def count(self, table: Table) -> int:
        count: int = await self._cx.fetchval(self._named(f"SELECT count(*) FROM rc.{table.name}"))
        return count

    def converted(self, table: Table, row: Columns) -> tuple[Column, ...]:
        """A row of the source as it is written to this schema."""
        return tuple(
            value if convert is None or value is None else convert(value)
            for value, convert in zip(row, self._convert[table.name], strict=True)
        )

    async def write(self, table: Table, rows: Sequence[tuple[Column, ...]]) -> None:
        """Writes converted rows, all or none."""
        await self._cx.copy_records_to_table(
            table.name, schema_name=self._schema, columns=self._names[table.name], records=rows
        )

    async def page(self, table: Table, after: Columns | None, limit: int) -> list[tuple[Column, ...]]:
        """Rows in the order of their keys, those behind `after`, which is a key as it is written to this
        schema."""
        key = ", ".join(table.key)
        marks = ", ".join(f"${at}" for at in range(2, 2 + len(table.key)))
        where = "" if after is None else f" WHERE ({key}) > ({marks})"
        names = ", ".join(f'"{name}"' for name in self._names[table.name])
        query = self._named(f"SELECT {names} FROM rc.{table.name}{where} ORDER BY {key} LIMIT $1")
        return [tuple(row) for row in await self._cx.fetch(query, limit, *(after or ()))]

    async def finish(self) -> None:
        """Complete the copy: from now on stores open the schema."""
        async with self._cx.transaction():
            for table in TABLES:
                await self._cx.execute(self._named(f"ALTER TABLE rc.{table.name} ENABLE TRIGGER USER"))
            for table, column in (("workers", "epoch"), ("transitions", "id")):
                await self._cx.execute(
                    self._named(
                        f"SELECT setval(pg_get_serial_sequence('rc.{table}', '{column}'),"
                        f" (SELECT COALESCE(max({column}), 0) + 1 FROM rc.{table}), false)"
                    )
                )
            await self._cx.execute(self._named("DROP TABLE rc.copying"))
        for table in TABLES:
            await self._cx.execute(self._named(f"ANALYZE rc.{table.name}"))

    def _named(self, sql: str) -> str:
        return schemas.named(sql, self._schema)
