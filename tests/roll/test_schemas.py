"""Everything that the last release may use of a schema is still there when this version has migrated it."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import AsyncGenerator, Sequence
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from stores.sql.migration import Migration, migrations_of
from stores.sql.postgres import scripts
from stores.sql.postgres.schema import migrate as migrate_postgres
from stores.sql.sqlite import schema as sqlite_schema
from tests.conftest import NOT_RUN
from tests.roll.versions import ROOT, NoBaseline, unpack
from tests.support.postgres import Database

SQLITE, POSTGRES = "stores/sql/sqlite", "stores/sql/postgres"
FUNCTIONS = "stores/sql/postgres/functions"
Parts = dict[str, str]
"""What a schema has, each part with what must not change of it."""


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The SQL of the last release."""
    folder = tmp_path_factory.mktemp("release")
    try:
        unpack(folder, SQLITE, POSTGRES)
    except NoBaseline as error:
        pytest.skip(f"{NOT_RUN}{error}")
    return folder


def released(folder: Path) -> tuple[Migration, ...]:
    """The migrations of the last release. The baseline has the first one in one file."""
    first, *later = migrations_of(folder)
    one_file = folder / "schema.sql"
    return (first._replace(sql=one_file.read_text()) if one_file.exists() else first), *later


def statements(migrations: Sequence[Migration]) -> list[Migration]:
    """Without blank lines and lines of comment."""
    return [one._replace(sql=re.sub(r"^(--.*)?\n", "", one.sql, flags=re.MULTILINE)) for one in migrations]


@pytest.mark.parametrize("folder", [SQLITE, POSTGRES])
def test_released_schema_and_migrations_are_not_edited(release: Path, folder: str) -> None:
    before = statements(released(release / folder))
    assert statements(migrations_of(ROOT / folder))[: len(before)] == before


def kept(before: Parts, after: Parts) -> None:
    """Every part is there, and as it was."""
    lost = {name: (what, after.get(name)) for name, what in before.items() if after.get(name) != what}
    assert not lost, f"workers of the last release use these: {lost}"


# -- SQLite

SERVES_AS = {
    "CREATE INDEX runs_owner ON runs (owner_epoch, run_id) WHERE holds_thread": (
        "CREATE INDEX runs_owner ON runs (owner_epoch) WHERE holds_thread"
    ),
    "CREATE INDEX runs_home ON runs (home_epoch, thread_id, run_id)"
    " WHERE status = 'pending' AND NOT holds_thread": (
        "CREATE INDEX runs_home ON runs (home_epoch) WHERE status = 'pending' AND NOT holds_thread"
    ),
    "CREATE INDEX transitions_run ON transitions (run_id)": (
        "CREATE INDEX transitions_run ON transitions (run_id, id)"
    ),
}
"""Indexes that serve every statement of the ones that they replace. SQLite adds ids to all entries."""


def sqlite_parts(cx: sqlite3.Connection) -> Parts:
    """Indexes count as well: statements name them (INDEXED BY)."""
    parts: Parts = {}
    for kind, name, sql in cx.execute(
        "SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL"
    ).fetchall():
        if kind == "table" and name != "schema_version":
            for _, column, type_, *_ in cx.execute(f"PRAGMA table_info({name})"):
                parts[f"{name}.{column}"] = type_
        elif kind == "index":
            text = re.sub(r"\s+", " ", sql)
            parts[f"index {name}"] = SERVES_AS.get(text, text)
    return parts


def inserts_without(cx: sqlite3.Connection, known: Parts) -> list[str]:
    """New columns that an INSERT of the last release leaves empty, and may not."""
    tables = {part.partition(".")[0] for part in known if "." in part}
    return [
        f"{table}.{column}"
        for table in sorted(tables)
        for _, column, _, required, default, _ in cx.execute(f"PRAGMA table_info({table})")
        if required and default is None and f"{table}.{column}" not in known
    ]


def of_release(release: Path, path: Path) -> sqlite3.Connection:
    """A file as the last release makes it."""
    cx = sqlite3.connect(path, isolation_level=None)
    cx.execute(f"PRAGMA application_id = {sqlite_schema.APPLICATION_ID}")
    for number, name, sql in released(release / SQLITE):
        cx.executescript(sql)
        cx.execute("INSERT INTO schema_version (version, name, applied_at) VALUES (?, ?, '')", (number, name))
    return cx


def test_sqlite_keeps_what_the_last_release_uses(release: Path, tmp_path: Path) -> None:
    if sqlite_schema.oldest() > released(release / SQLITE)[-1].number:
        pytest.skip("a migration states that programs of the last release may not work on it")
    with closing(of_release(release, tmp_path / "runs.db")) as cx:
        before = sqlite_parts(cx)
        assert "runs.status" in before
        sqlite_schema.migrate(cx, "runs.db")
        kept(before, sqlite_parts(cx))
        assert inserts_without(cx, before) == []


def test_lost_part_of_a_sqlite_schema_is_found(release: Path, tmp_path: Path) -> None:
    with closing(of_release(release, tmp_path / "runs.db")) as cx:
        before = sqlite_parts(cx)
        cx.executescript("DROP INDEX runs_portable; ALTER TABLE workers RENAME COLUMN host TO machine;")
        with pytest.raises(
            AssertionError, match=r"(?s)runs_portable.*workers.host|workers.host.*runs_portable"
        ):
            kept(before, sqlite_parts(cx))
        cx.executescript(
            "CREATE TABLE added (a INT); DROP TABLE threads; CREATE TABLE threads (thread_id, x INT NOT NULL)"
        )
        assert inserts_without(cx, before) == ["threads.x", "workers.machine"]


# -- PostgreSQL

_COLUMNS = (
    "SELECT table_name || '.' || column_name, data_type FROM information_schema.columns"
    " WHERE table_schema = $1 AND table_name <> 'schema_version'"
)
_REQUIRED = (
    "SELECT table_name || '.' || column_name FROM information_schema.columns WHERE table_schema = $1"
    " AND is_nullable = 'NO' AND column_default IS NULL AND is_identity = 'NO' AND is_generated = 'NEVER'"
    " AND table_name <> 'schema_version'"
)
_FUNCTIONS = (
    "SELECT 'function ' || proname || '(' || pg_get_function_identity_arguments(oid) || ')',"
    " pg_get_function_result(oid) FROM pg_proc WHERE pronamespace = $1::regnamespace"
)
_TYPES = (
    "SELECT 'type ' || typname || '.' || attname, format_type(atttypid, atttypmod) FROM pg_type"
    " JOIN pg_attribute ON attrelid = typrelid WHERE typnamespace = $1::regnamespace AND typtype = 'c'"
    " AND attnum > 0 AND NOT attisdropped"
    " AND EXISTS (SELECT FROM pg_class WHERE pg_class.oid = typrelid AND relkind = 'c')"
)


async def postgres_parts(cx: asyncpg.Connection[asyncpg.Record], schema: str) -> Parts:
    parts: Parts = {}
    for query in (_COLUMNS, _FUNCTIONS, _TYPES):
        parts.update((row[0], row[1]) for row in await cx.fetch(query, schema))
    return parts


@pytest.fixture
async def schema(release: Path, shared_postgres: Database) -> AsyncGenerator[str]:
    """A schema as the last release makes it."""
    name = f"release_{uuid4().hex[:12]}"
    async with shared_postgres.connection() as cx:
        await cx.execute(f"CREATE SCHEMA {name}")
        applied = f"INSERT INTO {name}.schema_version (version, name, applied_at) VALUES ($1, $2, '')"
        for number, file, sql in released(release / POSTGRES):
            await cx.execute(scripts.named(sql, name))
            await cx.execute(applied, number, file)
        for file in sorted((release / FUNCTIONS).glob("*.sql")):
            await cx.execute(scripts.named(file.read_text(), name))
    yield name
    await shared_postgres.execute(f"DROP SCHEMA {name} CASCADE")


async def test_postgres_keeps_what_the_last_release_uses(
    release: Path, shared_postgres: Database, schema: str
) -> None:
    if scripts.oldest() > released(release / POSTGRES)[-1].number:
        pytest.skip("a migration states that programs of the last release may not work on it")
    async with shared_postgres.connection() as cx:
        before = await postgres_parts(cx, schema)
        required = {name for (name,) in await cx.fetch(_REQUIRED, schema)}
        assert any(name.startswith("function decide(") for name in before)
        await migrate_postgres(cx, schema)
        kept(before, await postgres_parts(cx, schema))
        tables = {part.partition(".")[0] for part in before}
        added = {name for (name,) in await cx.fetch(_REQUIRED, schema)} - required
        assert [name for name in added if name.partition(".")[0] in tables] == []


async def test_lost_part_of_a_postgres_schema_is_found(shared_postgres: Database, schema: str) -> None:
    async with shared_postgres.connection() as cx:
        before = await postgres_parts(cx, schema)
        for damage in (
            "DROP FUNCTION rc.delete_cron(text, text)",
            "ALTER TABLE rc.workers RENAME COLUMN host TO machine",
            "ALTER TABLE rc.threads ALTER COLUMN fence TYPE numeric",
            "ALTER TYPE rc.standing DROP ATTRIBUTE error",
        ):
            damaged = cx.transaction()
            await damaged.start()
            await cx.execute(scripts.named(damage, schema))
            with pytest.raises(AssertionError, match="last release"):
                kept(before, await postgres_parts(cx, schema))
            await damaged.rollback()
