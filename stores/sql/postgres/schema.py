"""Is this schema ours, is it new enough, and how it gets there: numbered SQL files, applied in order, and
then the functions."""

from __future__ import annotations

import re
from typing import Any

from stores.errors import StoreRefused
from stores.sql.postgres import installed, server
from stores.sql.postgres.scripts import functions, migrations, named

__all__ = ["SCHEMA_NAME", "functions", "grant", "migrate", "migrations", "named", "outdated", "version"]

SCHEMA_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
"""Without quotes it means itself."""
_MARK = "run-coordinator"
"""The comment on schema_version: the table of another program has another, or none."""


_LOOK = (
    "SELECT to_regclass($1 || '.schema_version') IS NOT NULL,"
    " obj_description(to_regclass($1 || '.schema_version'), 'pg_class'),"
    " (SELECT count(*) FROM pg_class WHERE relnamespace = to_regnamespace($1)),"
    " to_regclass($1 || '.copying') IS NOT NULL"
)


async def version(cx: Any, schema: str) -> int:
    """The schema's version, 0 where it is empty or absent.

    Raises StoreRefused where it belongs to another program, is newer than this one, or is half a copy, and
    where the server or the database is of no use.
    """
    await server.check(cx)
    there, mark, relations, copying = await cx.fetchrow(_LOOK, schema)
    if not there and not relations:
        return 0
    if not there or mark != _MARK:
        raise StoreRefused(
            f"Schema {schema!r} of this database belongs to another program: name another schema"
            " (postgres_schema)"
        )
    if copying:
        raise StoreRefused(
            f"Schema {schema!r} holds half a copy: run `coordinator db copy` again, which goes on with it"
        )
    found: int = await cx.fetchval(f"SELECT COALESCE(max(version), 0) FROM {schema}.schema_version")
    newest = migrations()[-1].number
    if found > newest:
        raise StoreRefused(
            f"Schema {schema!r} has version {found}, this program knows {newest}: upgrade run-coordinator"
            " on this host, or restore the database's backup"
        )
    return found


async def outdated(cx: Any, schema: str) -> str | None:
    """What of the schema is older than this program, in words; None = nothing. Raises StoreRefused."""
    found = await version(cx, schema)
    if found < migrations()[-1].number:
        return f"schema {schema!r} has version {found}"
    if await installed.outdated(cx, schema):
        return f"the functions of schema {schema!r} are of an older program"
    return None


async def migrate(cx: Any, schema: str, *, repair: bool = False) -> list[str]:
    """Bring the schema to the newest version, and the functions to this program's revision, all or nothing.
    `repair`: make functions again that were dropped or changed since they were installed.

    Returns the names of the applied migrations and the signatures of the repaired functions. Functions of a
    newer program stay as they are. Safe when several processes start at once: each looks again under an
    advisory lock.
    """
    async with cx.transaction():
        await cx.fetchval("SELECT pg_advisory_xact_lock(hashtext($1), hashtext($2))", _MARK, schema)
        found = await version(cx, schema)
        todo = [migration for migration in migrations() if migration.number > found]
        if found == 0:
            await cx.execute(named(_BEGIN, schema).replace(":schema", schema))
        for migration in todo:
            await cx.execute(named(migration.sql, schema))
            await cx.execute(
                f"INSERT INTO {schema}.schema_version VALUES ($1, $2, to_char(now() AT TIME ZONE 'UTC',"
                ' \'YYYY-MM-DD"T"HH24:MI:SS"Z"\'))',
                migration.number,
                migration.name,
            )
        repaired = await _broken(cx, schema) if repair and not todo else {}
        if todo or repaired or await installed.outdated(cx, schema):
            await installed.install(cx, schema, functions(), repair=list(repaired))
    return [migration.name for migration in todo] + list(repaired)


async def _broken(cx: Any, schema: str) -> dict[str, str]:
    """What this program can repair, without putting older functions in the place of newer ones."""
    found = await installed.recorded(cx, schema)
    if found is None or found.newer:
        return {}
    return await installed.differences(cx, schema)


_BEGIN = f"""
CREATE SCHEMA IF NOT EXISTS :schema;
CREATE TABLE rc.schema_version (version integer PRIMARY KEY, name text NOT NULL, applied_at text NOT NULL);
COMMENT ON TABLE rc.schema_version IS '{_MARK}';
"""


async def grant(cx: Any, schema: str, role: str) -> None:
    """What a worker needs: rows, not tables. Within a transaction."""
    quoted = await cx.fetchval("SELECT quote_ident($1)", role)
    rows = "SELECT, INSERT, UPDATE, DELETE"
    later = f"ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT"
    for script in (
        f"GRANT USAGE ON SCHEMA {schema} TO {quoted}",
        f"GRANT {rows} ON ALL TABLES IN SCHEMA {schema} TO {quoted}",
        f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {schema} TO {quoted}",
        f"REVOKE INSERT, UPDATE, DELETE ON {schema}.schema_version FROM {quoted}",
        f"{later} {rows} ON TABLES TO {quoted}",
        f"{later} EXECUTE ON FUNCTIONS TO {quoted}",
    ):
        await cx.execute(script)
