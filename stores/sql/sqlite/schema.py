"""Is this file ours, is it new enough, and how it gets there: numbered SQL files, applied in order."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from stores.errors import StoreRefused

APPLICATION_ID = 0x52434F52  # "RCOR" in the file's header, where `file(1)` and SQLite look for it


class Migration(NamedTuple):
    number: int
    name: str
    sql: str


@cache
def migrations() -> tuple[Migration, ...]:
    folder = files("stores.sql.sqlite") / "migrations"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return tuple(
        Migration(int(name[:4]), name.removesuffix(".sql"), (folder / name).read_text(encoding="utf-8"))
        for name in names
    )


def version(cx: sqlite3.Connection, path: str) -> int:
    """The schema's version, 0 for an empty file.

    Raises StoreRefused where the file is not a run store or is newer than this program.
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
    (found,) = cx.execute("SELECT max(version) FROM schema_version").fetchone()
    newest = migrations()[-1].number
    if found > newest:
        raise StoreRefused(
            f"{path} has schema version {found}, this program knows {newest}: upgrade run-coordinator"
            " on this host, or restore the file's backup"
        )
    return found


def tables(cx: sqlite3.Connection) -> list[str]:
    names = cx.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    return [name for (name,) in names.fetchall()]


@contextmanager
def _snapshot(cx: sqlite3.Connection) -> Generator[None]:
    """Several reads of one moment: another process may be creating the tables just now."""
    if cx.in_transaction:
        yield
        return
    cx.execute("BEGIN")
    try:
        yield
    finally:
        if cx.in_transaction:
            cx.execute("ROLLBACK")


def migrate(cx: sqlite3.Connection, path: str) -> list[str]:
    """Bring the file to the newest version, all or nothing; answer the names of what was applied.

    Safe when several processes start at once: each looks again under the write lock.
    """
    cx.execute("BEGIN EXCLUSIVE")
    try:
        found = version(cx, path)
        if found == 0:
            cx.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            cx.execute(
                "CREATE TABLE schema_version (version INTEGER PRIMARY KEY, name TEXT NOT NULL,"
                " applied_at TEXT NOT NULL)"
            )
        todo = [migration for migration in migrations() if migration.number > found]
        for migration in todo:
            for statement in statements(migration.sql):
                cx.execute(statement)
            cx.execute(
                "INSERT INTO schema_version VALUES (?, ?, strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))",
                (migration.number, migration.name),
            )
        cx.execute("COMMIT")
    except BaseException:
        if cx.in_transaction:
            cx.execute("ROLLBACK")
        raise
    return [migration.name for migration in todo]


def statements(script: str) -> list[str]:
    """Split a script at the semicolons that end statements (triggers hold some that do not)."""
    found, current = list[str](), ""
    for line in script.splitlines(keepends=True):
        current += line
        if sqlite3.complete_statement(current):
            found.append(current)
            current = ""
    if any(line.strip() and not line.lstrip().startswith("--") for line in current.splitlines()):
        raise ValueError(f"a migration ends in the middle of a statement: {current.strip()[:80]!r}")
    return found
