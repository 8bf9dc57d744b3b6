"""Is the file ours, is its version known, and what happens when several processes open it at once."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from stores.errors import StoreRefused, StoreUnavailable
from stores.sql.migration import FIRST
from stores.sql.sqlite import schema
from stores.sql.sqlite.schema import APPLICATION_ID, Migration, migrate, migrations, statements, version
from stores.sqlite import SQLiteStore
from tests.support.builders import new_worker
from tests.support.children import Child
from tests.support.inside_stores import open_gates
from tests.support.waiting import wait_until

OPEN = """
import asyncio
from stores.rows import NewWorker
from stores.sqlite import SQLiteStore
async def main():
    store = SQLiteStore(args[0], busy_timeout=20)
    send("ready")
    receive()
    await store.open()
    send(await store.register(NewWorker("w", "here", "boot", 1, "0", 15000)))
    await store.aclose()
asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@pytest.fixture
def newer(path: Path) -> Path:
    with closing(sqlite3.connect(path, isolation_level=None)) as cx:
        migrate(cx, str(path))
        cx.execute(
            "INSERT INTO schema_version (version, name, applied_at) VALUES (9999, 'from the future', '')"
        )
    return path


@pytest.fixture
def foreign(path: Path) -> Path:
    with closing(sqlite3.connect(path)) as cx:
        cx.execute("CREATE TABLE theirs (x)")
    return path


def test_migrations_are_numbered_in_ascending_order() -> None:
    numbers = [migration.number for migration in migrations()]
    assert numbers[0] == FIRST
    assert numbers == sorted(set(numbers))
    for migration in migrations():
        assert migration.name.startswith(f"{migration.number:04}_")


async def test_a_new_file_is_brought_to_the_newest_version(path: Path) -> None:
    newest = migrations()[-1].number
    store = SQLiteStore(path)
    for _ in range(2):
        await store.open()
        await store.open()
        await store.aclose()
        await store.aclose()
    inspected = await store.inspect()
    assert (inspected.version, inspected.newest) == (newest, newest)
    with closing(sqlite3.connect(path)) as cx:
        assert cx.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        assert cx.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert cx.execute("SELECT count(*) FROM schema_version").fetchone() == (len(migrations()),)


async def test_a_file_of_another_program_is_refused_and_left_as_it_is(foreign: Path) -> None:
    await refused(foreign, "another program")


async def test_what_is_no_database_is_refused_and_left_as_it_is(path: Path) -> None:
    path.write_bytes(b"a diary, " * 1000)  # noqa: ASYNC240 - nothing else runs in this loop
    await refused(path, "not a SQLite database")


async def test_a_newer_schema_is_refused_and_left_as_it_is(newer: Path) -> None:
    await refused(newer, "schema version 9999")


async def test_schema_of_before_the_first_release_is_refused_and_left_as_it_is(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as cx:
        cx.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        cx.execute("CREATE TABLE schema_version (version INTEGER PRIMARY KEY, name TEXT, applied_at TEXT)")
        cx.execute("INSERT INTO schema_version VALUES (12, '0012_event_logs', '')")
    await refused(path, f"version 12, from before the first release.*{FIRST}.*start with a new file")


def contents(path: Path) -> dict[str, bytes]:
    """Of the whole folder."""
    return {entry.name: entry.read_bytes() for entry in path.parent.iterdir()}


async def refused(path: Path, why: str) -> None:
    before = contents(path)
    threads = set(threading.enumerate())
    with pytest.raises(StoreRefused, match=why):
        await SQLiteStore(path).open()
    assert contents(path) == before, "and nothing is put beside it"
    assert not open_gates()
    await wait_until(lambda: set(threading.enumerate()) <= threads, description="no thread is left")
    with pytest.raises(StoreRefused, match=why):
        await SQLiteStore(path).inspect()


async def test_without_leave_to_migrate_an_old_file_stays_old(path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="db migrate"):
        await SQLiteStore(path, migrate=False).open()
    with closing(sqlite3.connect(path)) as cx:
        assert version(cx, "x") == 0
    with pytest.raises(StoreUnavailable, match="does not exist"):
        await SQLiteStore(path.with_name("absent.db")).inspect()


async def test_a_missing_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="does not exist"):
        await SQLiteStore(tmp_path / "no" / "runs.db").open()
    with pytest.raises(StoreUnavailable, match="is a folder"):
        await SQLiteStore(tmp_path).open()


def test_a_migration_that_fails_leaves_nothing_behind(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = migrations()
    bad = Migration(good[-1].number + 1, "bad", "CREATE TABLE half (x);\nINSERT INTO nowhere VALUES (1);\n")
    monkeypatch.setattr(schema, "migrations", lambda: [*good, bad])
    with closing(sqlite3.connect(path, isolation_level=None)) as cx:
        with pytest.raises(sqlite3.OperationalError, match="nowhere"):
            migrate(cx, "x")
        assert not cx.in_transaction
        assert version(cx, "x") == 0
        assert cx.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,)


def test_a_migration_that_ends_in_mid_statement_is_refused() -> None:
    assert statements("CREATE TABLE a (x);\n-- the end\n") == ["CREATE TABLE a (x);\n"]
    with pytest.raises(ValueError, match="middle of a statement"):
        statements("CREATE TABLE a (x);\nCREATE TABLE b (x)\n")


def test_a_file_that_is_being_created_is_never_taken_for_a_foreign_one(path: Path) -> None:
    """The tables of another process appear between two reads of the file."""

    class Overtaken(sqlite3.Connection):
        overtaken = False

        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
            if "sqlite_schema" in sql and not self.overtaken:
                self.overtaken = True
                with closing(sqlite3.connect(path, isolation_level=None)) as other:
                    migrate(other, "x")
            return super().execute(sql, *args)

    with closing(sqlite3.connect(path, isolation_level=None)) as cx:
        cx.execute("PRAGMA journal_mode = WAL")
    with closing(sqlite3.connect(path, isolation_level=None, factory=Overtaken)) as cx:
        assert version(cx, "x") == 0
        assert cx.overtaken
        assert migrate(cx, "x") == []


def test_processes_that_create_the_file_at_the_same_moment_all_get_in(path: Path) -> None:
    for attempt in range(3):
        database = path.with_name(f"runs-{attempt}.db")
        children = [Child(OPEN, database) for _ in range(4)]
        try:
            for child in children:
                assert child.receive() == "ready"
            for child in children:
                child.send()
            assert sorted(child.receive() for child in children) == ["1", "2", "3", "4"]
        finally:
            for child in children:
                child.__exit__(None, None, None)


async def test_stores_of_one_process_that_open_at_the_same_moment_all_get_in(path: Path) -> None:
    one = SQLiteStore(path)
    others = [SQLiteStore(path) for _ in range(4)]
    before = threading.active_count()
    await asyncio.gather(one.open(), one.open(), *(store.open() for store in others))
    assert threading.active_count() - before <= 2 * 5, "opened twice at once is opened once"
    epochs = await asyncio.gather(*(store.register(new_worker()) for store in (one, *others)))
    assert sorted(epochs) == [1, 2, 3, 4, 5]
    await asyncio.gather(*(store.aclose() for store in (one, one, *others)))
    assert not open_gates()


async def test_an_open_that_is_cancelled_leaves_nothing_and_may_be_repeated(path: Path) -> None:
    threads = set(threading.enumerate())
    store = SQLiteStore(path)
    for turns in range(8):
        task = asyncio.ensure_future(store.open())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if not task.cancelled():
            await store.aclose()
    assert not open_gates()
    await wait_until(lambda: set(threading.enumerate()) <= threads, description="no thread is left")
    await store.open()
    await store.aclose()
