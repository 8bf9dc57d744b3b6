"""What SQLite is configured to do, and which of its versions are known to need care."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing, suppress
from pathlib import Path

import pytest

from coordinator.langgraph.savers.sqlite.schema import prepare
from stores.sql.sqlite.durability import has_wal_reset_race
from stores.sqlite import SQLiteStore
from tests.support.inside_stores import connection_of, writer_of


@pytest.mark.parametrize(
    ("version", "affected"),
    [
        ((3, 6, 23), False),
        ((3, 7, 0), True),
        ((3, 44, 5), True),
        ((3, 44, 6), False),
        ((3, 46, 1), True),
        ((3, 50, 6), True),
        ((3, 50, 7), False),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 52, 0), False),
        ((4, 0, 0), False),
    ],
)
def test_versions_with_the_wal_reset_race(version: tuple[int, int, int], affected: bool) -> None:
    assert has_wal_reset_race(version) is affected


async def test_commits_and_checkpoints_use_full_sync_on_macos(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "runs.db")
    await store.open()
    heart = store.heart()
    try:

        def sync_pragmas(cx: sqlite3.Connection) -> list[int]:
            pragmas = ("synchronous", "fullfsync", "checkpoint_fullfsync")
            return [cx.execute(f"PRAGMA {pragma}").fetchone()[0] for pragma in pragmas]

        assert await writer_of(store).submit(sync_pragmas) == [2, 1, 1]
        assert sync_pragmas(connection_of(heart)) == [2, 1, 1]
    finally:
        heart.close()
        await store.aclose()


def temporary_files_of_an_update(cx: sqlite3.Connection, fill: str, change: str) -> list[str]:
    """The files of SQLite in the folder for temporary files, after a statement that changes many pages."""
    numbers = "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 3000)"
    cx.execute("BEGIN IMMEDIATE")
    cx.execute(f"{numbers} {fill}")
    cx.execute(change)
    names = list[str]()
    for each in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            names.append(str(each.readlink()))
    cx.execute("ROLLBACK")
    return [name for name in names if "etilqs" in name]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
class TestStatementJournals:
    THREADS = "INSERT INTO threads (thread_id, created_at, updated_at) SELECT n, 0, 0 FROM numbers"
    OTHER_METADATA = """UPDATE threads SET metadata = '{"a": 1}'"""

    async def test_writes_of_runs_need_no_temporary_files(self, tmp_path: Path) -> None:
        store = SQLiteStore(tmp_path / "runs.db")
        await store.open()
        try:
            files = await writer_of(store).submit(
                lambda cx: temporary_files_of_an_update(cx, self.THREADS, self.OTHER_METADATA)
            )
            with closing(sqlite3.connect(tmp_path / "runs.db", isolation_level=None)) as cx:
                assert temporary_files_of_an_update(cx, self.THREADS, self.OTHER_METADATA)
        finally:
            await store.aclose()
        assert files == []

    def test_writes_of_checkpoints_need_no_temporary_files(self, tmp_path: Path) -> None:
        checkpoints = "INSERT INTO checkpoints (thread_id, checkpoint_id) SELECT n, n FROM numbers"
        other_namespace = "UPDATE checkpoints SET checkpoint_ns = 'a'"
        path = tmp_path / "checkpoints.db"
        with closing(sqlite3.connect(path, isolation_level=None)) as cx:
            prepare(cx, path, "FULL", 1.0)
            assert temporary_files_of_an_update(cx, checkpoints, other_namespace) == []
        with closing(sqlite3.connect(path, isolation_level=None)) as cx:
            assert temporary_files_of_an_update(cx, checkpoints, other_namespace)
