"""Acknowledged writes are on disk."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from coordinator import RunManager, open_coordinator
from stores.sqlite import SQLiteStore
from tests.support.inside_stores import writer_of
from tests.support.teams import team_of


def store_of(manager: RunManager) -> SQLiteStore:
    assert isinstance(manager.store, SQLiteStore)
    return manager.store


def pragma(name: str, cx: sqlite3.Connection) -> Any:
    return cx.execute(f"PRAGMA {name}").fetchone()[0]


async def test_commit_is_flushed_before_the_answer(tmp_path: Path) -> None:
    """Reported failure 47: `synchronous` is FULL by default, and there is no answer before the commit."""
    async with open_coordinator(f"sqlite:///{tmp_path / 'runs.db'}") as manager:
        store = store_of(manager)
        assert await writer_of(store).submit(partial(pragma, "synchronous")) == 2
        assert await writer_of(store).submit(partial(pragma, "journal_mode")) == "wal"
        run = await manager.create_or_reject("t")
        with closing(sqlite3.connect(store.path)) as stranger:  # sees only what is committed
            row = stranger.execute("SELECT status FROM runs WHERE run_id = ?", (run.run_id,)).fetchone()
        assert row == ("pending",)


async def test_concurrent_writes_share_a_commit(tmp_path: Path) -> None:
    async with team_of(1, tmp_path, sqlite_synchronous="FULL") as (manager,):
        await asyncio.gather(*(admit(manager, at) for at in range(100)))
        assert store_of(manager).commits < 50


async def admit(manager: RunManager, at: int) -> None:
    await manager.create_or_reject(f"t{at}")


async def test_two_connections_write_without_lock_errors(tmp_path: Path) -> None:
    """Reported failure 26: "database is locked" with a few users."""
    async with team_of(3, tmp_path) as team:
        runs = await asyncio.gather(
            *(team[at % 3].create_or_reject(f"t{at}", multitask_strategy="enqueue") for at in range(90))
        )
        await asyncio.gather(*(team[(at + 1) % 3].cancel(run.run_id) for at, run in enumerate(runs)))
        assert {run.status for run in await team[0].runs.recent(limit=100)} == {"interrupted"}
