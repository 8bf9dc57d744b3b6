"""Checks that a file belongs to this program and is of a version that it works on, and migrates it:
`tables/` and numbered migrations, applied in order."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from functools import cache
from importlib.resources import files

from stores.errors import SchemaTooNew, SchemaTooOld, StoreRefused
from stores.sql.migration import FIRST, Migration, migrations_of, oldest_program

APPLICATION_ID = 0x52434F52  # "RCOR" in the file's header, which `file(1)` and SQLite show


@cache
def migrations() -> tuple[Migration, ...]:
    return migrations_of(files("stores.sql.sqlite"))


def oldest(*, at: int | None = None) -> int:
    """The version that a program has to know to work on the schema of version `at` (None = the newest)."""
    return oldest_program([migration for migration in migrations() if at is None or migration.number <= at])


def version(cx: sqlite3.Connection, path: str) -> int:
    """The schema's version, 0 for an empty file. It may be newer than this program.

    Raises StoreRefused where the file is not a run store; SchemaTooNew and SchemaTooOld where this program
    does not work on it.
    """
    try:
        with _snapshot(cx):
            (application,) = cx.execute("PRAGMA application_id").fetchone()
            (tables,) = cx.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB:
            raise StoreRefused(f"{path} is not a SQLite database: name another file") from error
        raise
    if application == 0 and tables == 0:
        return 0
    if application != APPLICATION_ID or tables == 0:
        raise StoreRefused(f"{path} is a SQLite database of another program: name another file")
    return check_version(cx, path)


def check_version(cx: sqlite3.Connection, path: str) -> int:
    """The version of a file that is a run store. Raises SchemaTooNew, SchemaTooOld."""
    (applied,) = cx.execute("SELECT max(version) FROM schema_version").fetchone()
    if applied < FIRST:  # the column `oldest` may be missing
        raise SchemaTooOld(path, version=applied, first=FIRST)
    (needed,) = cx.execute(
        "SELECT COALESCE(oldest, version) FROM schema_version WHERE version = ?", (applied,)
    ).fetchone()
    newest = migrations()[-1].number
    if newest < needed:
        raise SchemaTooNew(path, version=applied, oldest=needed, newest=newest)
    return applied


def tables(cx: sqlite3.Connection) -> list[str]:
    names = cx.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    return [name for (name,) in names.fetchall()]


def missing(cx: sqlite3.Connection, version: int) -> list[str]:
    """The tables, columns, indexes and triggers of a schema of this version that `cx` lacks, each with its
    kind. Other objects are no fault. A version newer than this program is not compared."""
    if version > migrations()[-1].number:
        return []
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as fresh:
        for migration in migrations():
            if migration.number <= version:
                _apply(fresh, migration)
        expected, existing = _objects(fresh), _objects(cx)
    lost = expected.keys() - existing.keys()
    return sorted(name for name in lost if expected[name] == name or expected[name] not in lost)


def _objects(cx: sqlite3.Connection) -> dict[str, str]:
    """Kinds and names, each with its table: of a table that is missing, only the table is reported."""
    rows = cx.execute(
        "SELECT type || ' ' || name, 'table ' || tbl_name FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'"
        " UNION ALL SELECT 'column ' || holder.name || '.' || part.name, 'table ' || holder.name"
        " FROM sqlite_schema AS holder, pragma_table_xinfo(holder.name) AS part WHERE holder.type = 'table'"
    )
    return dict(rows.fetchall())


def _apply(cx: sqlite3.Connection, migration: Migration) -> None:
    for statement in statements(migration.sql):
        cx.execute(statement)


@contextmanager
def _snapshot(cx: sqlite3.Connection) -> Generator[None]:
    """Several reads in one snapshot: another process may be creating the tables meanwhile."""
    if cx.in_transaction:
        yield
        return
    cx.execute("BEGIN")
    try:
        yield
    finally:
        if cx.in_transaction:
            cx.execute("ROLLBACK")


def migrate(cx: sqlite3.Connection, path: str, *, spare: int | None = None) -> list[str]:
    """Bring the file to the newest version, all or nothing; return the names of the applied migrations.
    `spare`: refuse a version on which workers that are live at that moment (us) could not work.

    A newer file stays as it is. Safe when several processes start at once: each checks again under the write
    lock. Raises StoreRefused, SchemaTooNew, SchemaTooOld.
    """
    cx.execute("BEGIN EXCLUSIVE")
    try:
        applied = version(cx, path)
        if applied == 0:
            cx.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        todo = [migration for migration in migrations() if migration.number > applied]
        if todo and applied:
            _check_live(cx, path, applied, spare)
        for migration in todo:
            _apply(cx, migration)
            cx.execute(
                "INSERT INTO schema_version (version, name, applied_at, oldest)"
                " VALUES (?, ?, strftime('%Y-%m-%dT%H:%M:%SZ', 'now'), ?)",
                (migration.number, migration.name, oldest(at=migration.number)),
            )
        cx.execute("COMMIT")
    except BaseException:
        if cx.in_transaction:
            cx.execute("ROLLBACK")
        raise
    return [migration.name for migration in todo]


def _check_live(cx: sqlite3.Connection, path: str, applied: int, now: int | None) -> None:
    """Raises StoreRefused."""
    if now is None or oldest() <= applied:
        return
    (live,) = cx.execute(
        "SELECT count(*) FROM workers WHERE state <> 'dead' AND lease_until > ?", (now,)
    ).fetchone()
    if live:
        raise StoreRefused(
            f"{path} has schema version {applied}, and {live} live workers of that time could not work on"
            f" version {migrations()[-1].number}: stop them first, or run `coordinator db migrate`"
        )


def statements(script: str) -> list[str]:
    """Split a script at the semicolons that end statements (triggers hold some that do not)."""
    complete, current = list[str](), ""
    for line in script.splitlines(keepends=True):
        current += line
        if sqlite3.complete_statement(current):
            complete.append(current)
            current = ""
    if any(line.strip() and not line.lstrip().startswith("--") for line in current.splitlines()):
        raise ValueError(f"a migration ends in the middle of a statement: {current.strip()[:80]!r}")
    return complete
