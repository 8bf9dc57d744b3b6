"""Is this schema ours, is it new enough, and how it gets there: numbered SQL files, applied in order, and
then the functions."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from stores.errors import StoreRefused

SCHEMA_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
"""Without quotes it means itself."""
_MARK = "run-coordinator"
"""The comment on schema_version: the table of another program has another, or none."""
_HERE = "rc."


class Migration(NamedTuple):
    number: int
    name: str
    sql: str


@cache
def migrations() -> tuple[Migration, ...]:
    return tuple(Migration(int(name[:4]), name, sql) for name, sql in _scripts("migrations"))


@cache
def functions() -> tuple[str, ...]:
    return tuple(sql for _, sql in _scripts("functions"))


def _scripts(folder: str) -> list[tuple[str, str]]:
    where = files("stores.sql.postgres") / folder
    names = sorted(entry.name for entry in where.iterdir() if entry.name.endswith(".sql"))
    return [(name.removesuffix(".sql"), (where / name).read_text(encoding="utf-8")) for name in names]


def named(sql: str, schema: str) -> str:
    """The statement with the schema's own name in place of `rc`."""
    return re.sub(r"\brc\.", f"{schema}.", sql)


_LOOK = (
    "SELECT to_regclass($1 || '.schema_version') IS NOT NULL,"
    " obj_description(to_regclass($1 || '.schema_version'), 'pg_class'),"
    " (SELECT count(*) FROM pg_class WHERE relnamespace = to_regnamespace($1)),"
    " to_regclass($1 || '.copying') IS NOT NULL"
)


async def version(cx: Any, schema: str) -> int:
    """The schema's version, 0 where it is empty or absent.

    Raises StoreRefused where it belongs to another program, is newer than this one, or is half a copy.
    """
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


async def migrate(cx: Any, schema: str) -> list[str]:
    """Bring the schema to the newest version, all or nothing; answer the names of what was applied.

    Safe when several processes start at once: each looks again under an advisory lock.
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
        if todo:
            for script in functions():
                await cx.execute(named(script, schema))
    return [migration.name for migration in todo]


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
