"""Checks that a schema belongs to this program and is of a version that it works on, and migrates it:
`tables/` and numbered migrations, applied in order, and then the functions."""

from __future__ import annotations

import re
from collections.abc import Callable

from stores.errors import SchemaTooNew, SchemaTooOld, StoreRefused
from stores.sql.migration import FIRST, Migration
from stores.sql.postgres import installed, server
from stores.sql.postgres.calls import Call, Connection, Query, Rows
from stores.sql.postgres.scripts import functions, migrations, named, oldest

__all__ = ["SCHEMA_NAME", "functions", "grant", "migrate", "migrations", "named", "outdated", "version"]

SCHEMA_NAME = re.compile(r"(?!pg_)[a-z_][a-z0-9_]{0,62}")
"""The server reserves names that begin with pg_."""
_MARK = "run-coordinator"
"""The comment on schema_version: the table of another program has another, or none."""
LOCKS_WITHIN = 2.0
"""s. All calls that use a table queue behind a migration that waits for it, heartbeats too: they have several
attempts within a lease."""


_LOOK = (
    "SELECT to_regclass(quote_ident($1) || '.schema_version') IS NOT NULL,"
    " obj_description(to_regclass(quote_ident($1) || '.schema_version'), 'pg_class'),"
    " (SELECT count(*) FROM pg_class WHERE relnamespace = to_regnamespace(quote_ident($1))),"
    " to_regclass(quote_ident($1) || '.copying') IS NOT NULL"
)
# By name, because schemas of before version FIRST may not have the column `oldest`.
_VERSION = (
    "SELECT version, COALESCE((to_jsonb(v) ->> 'oldest')::int, version)"
    " FROM rc.schema_version v ORDER BY version DESC LIMIT 1"
)
_VERSION_NOW = Query(_VERSION)


async def version(cx: Connection, schema: str) -> int:
    """The schema's version, 0 where it is empty or absent. It may be newer than this program.

    Raises StoreRefused where it belongs to another program or is half a copy, and where the server or the
    database is unsuitable; SchemaTooNew and SchemaTooOld where this program does not work on it.
    """
    await server.check(cx)
    has_version_table, mark, relations, copying = await cx.fetchrow(_LOOK, schema)
    if not has_version_table and not relations:
        return 0
    if not has_version_table or mark != _MARK:
        raise StoreRefused(
            f"Schema {schema!r} of this database belongs to another program: name another schema"
            " (postgres_schema)"
        )
    if copying:
        raise StoreRefused(
            f"Schema {schema!r} holds half a copy: run `coordinator db copy` again, which continues it"
        )
    return _checked(await cx.fetch(named(_VERSION, schema)), f"Schema {schema!r}")


def check_version() -> Call[int]:
    """The version of an existing schema. Raises SchemaTooNew, SchemaTooOld."""
    return Call(_VERSION_NOW, (), lambda rows: _checked(rows, "The schema"))


def _checked(rows: Rows, where: str) -> int:
    if not rows:
        return 0
    applied, needed = rows[0]
    if applied < FIRST:
        raise SchemaTooOld(where, version=applied, first=FIRST)
    newest = migrations()[-1].number
    if newest < needed:
        raise SchemaTooNew(where, version=applied, oldest=needed, newest=newest)
    return applied


async def outdated(cx: Connection, schema: str) -> str | None:
    """Which part of the schema is older than this program, in words; None = no part. Raises as `version`."""
    applied, newest = await version(cx, schema), migrations()[-1].number
    if applied < newest:
        return f"schema {schema!r} has version {applied}"
    if applied == newest and await installed.outdated(cx, schema):
        return f"the functions of schema {schema!r} are of an older program"
    return None


def _nothing(_: int) -> None:
    """The default of `begun`: ignores which session migrates."""


async def migrate(
    cx: Connection,
    schema: str,
    *,
    repair: bool = False,
    unasked: bool = False,
    begun: Callable[[int], None] = _nothing,
) -> list[str]:
    """Bring the schema to the newest version, and the functions to this program's revision, all or nothing.
    `repair`: make functions again that were dropped or changed since they were installed. `unasked`: refuse
    what live workers of earlier versions could not work on. `begun` receives the server's process id.

    Returns the names of the applied migrations and the signatures of the repaired functions. A newer schema,
    and functions of a newer program, stay as they are. Safe when several processes start at once: each checks
    again under an advisory lock. Raises asyncpg.LockNotAvailableError after LOCKS_WITHIN, and as `version`.
    """
    async with cx.transaction():
        await cx.execute(f"SET LOCAL lock_timeout = '{LOCKS_WITHIN * 1000:.0f}ms'")
        begun(await cx.fetchval("SELECT pg_backend_pid()"))
        await cx.fetchval("SELECT pg_advisory_xact_lock(hashtext($1), hashtext($2))", _MARK, schema)
        applied = await version(cx, schema)
        if applied > migrations()[-1].number:
            return []
        todo = [migration for migration in migrations() if migration.number > applied]
        if unasked and todo and applied:
            await _check_live(cx, schema, applied)
        await _apply(cx, schema, todo, new=applied == 0)
        repaired = await _broken(cx, schema) if repair and not todo else {}
        if todo or repaired or await installed.outdated(cx, schema):
            await installed.install(cx, schema, functions(), repair=list(repaired))
    return [migration.name for migration in todo] + list(repaired)


async def _check_live(cx: Connection, schema: str, applied: int) -> None:
    """Raises StoreRefused."""
    live: int = 0 if oldest() <= applied else await cx.fetchval(named(_LIVE, schema))
    if live:
        raise StoreRefused(
            f"Schema {schema!r} has version {applied}, and {live} live workers of that time could not work on"
            f" version {migrations()[-1].number}: stop them first, or run `coordinator db migrate`"
        )


_LIVE = (
    "SELECT count(*) FROM rc.workers WHERE state <> 'dead'"
    " AND lease_until > (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
)


async def _apply(cx: Connection, schema: str, todo: list[Migration], *, new: bool) -> None:
    # IF NOT EXISTS requires the right to create, also where nothing has to be created.
    if new and await cx.fetchval("SELECT to_regnamespace(quote_ident($1)) IS NULL", schema):
        await cx.execute(f'CREATE SCHEMA "{schema}"')
    for migration in todo:
        await cx.execute(named(migration.sql, schema))
        await cx.execute(
            named(_APPLIED, schema), migration.number, migration.name, oldest(at=migration.number)
        )


async def _broken(cx: Connection, schema: str) -> dict[str, str]:
    """The functions that this program can repair, without replacing newer functions by older ones."""
    record = await installed.recorded(cx, schema)
    if record is None or record.newer:
        return {}
    return await installed.differences(cx, schema)


_APPLIED = (
    "INSERT INTO rc.schema_version (version, name, applied_at, oldest)"
    " VALUES ($1, $2, to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), $3)"
)


async def grant(cx: Connection, schema: str, role: str) -> None:
    """Grant what a worker needs: access to rows, no changes of tables. Within a transaction."""
    quoted = await cx.fetchval("SELECT quote_ident($1)", role)
    rows = "SELECT, INSERT, UPDATE, DELETE"
    later = f'ALTER DEFAULT PRIVILEGES IN SCHEMA "{schema}" GRANT'
    for script in (
        f'GRANT USAGE ON SCHEMA "{schema}" TO {quoted}',
        f'GRANT {rows} ON ALL TABLES IN SCHEMA "{schema}" TO {quoted}',
        f'GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA "{schema}" TO {quoted}',
        f'REVOKE INSERT, UPDATE, DELETE ON "{schema}".schema_version FROM {quoted}',
        f"{later} {rows} ON TABLES TO {quoted}",
        f"{later} EXECUTE ON FUNCTIONS TO {quoted}",
    ):
        await cx.execute(script)
