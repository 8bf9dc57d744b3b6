"""What SQLite is configured to do, and which of its versions are known to need care."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

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
