"""The store on one SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

from stores.sqlite import SQLiteStore
from tests.faults.engine import Engine, Link

_WITNESS = """
CREATE TABLE test_saves (id INTEGER PRIMARY KEY, run_id TEXT, epoch INTEGER, n INTEGER);
CREATE TABLE test_deaths (epoch INTEGER PRIMARY KEY, by INTEGER, save INTEGER, transition INTEGER);
CREATE TRIGGER test_saves_log AFTER UPDATE OF "values" ON threads WHEN NEW."values" ->> '$.by' IS NOT NULL
BEGIN
    INSERT INTO test_saves (run_id, epoch, n)
    VALUES (NEW."values" ->> '$.by', NEW."values" ->> '$.epoch', NEW."values" ->> '$.n');
END;
CREATE TRIGGER test_deaths_log AFTER UPDATE OF state ON workers
WHEN NEW.state = 'dead' AND OLD.state <> 'dead'
BEGIN
    INSERT INTO test_deaths VALUES (NEW.epoch, NEW.fenced_by,
        (SELECT COALESCE(max(id), 0) FROM test_saves), (SELECT COALESCE(max(id), 0) FROM transitions));
END;
"""


class SQLite(Engine):
    proves_death = True

    def __init__(self, database: Path) -> None:
        self.database = database

    @asynccontextmanager
    async def link(self) -> AsyncGenerator[Link]:
        yield Link({"store": f"sqlite:///{self.database}"}, None)

    async def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        uri = f"file:{self.database}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=30)) as cx:
            return cx.execute(sql, parameters).fetchall()

    def store(self) -> SQLiteStore:
        return SQLiteStore(self.database)

    async def complaints(self) -> list[str]:
        with closing(sqlite3.connect(self.database)) as cx:
            sound = cx.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return [] if sound else ["the file is damaged (PRAGMA integrity_check)"]

    async def keep(self, folder: Path) -> None:
        for path in self.database.parent.glob("*.db*"):
            (folder / path.name).write_bytes(path.read_bytes())


@asynccontextmanager
async def on_sqlite(disk: Path) -> AsyncGenerator[SQLite]:
    engine = SQLite(disk / "runs.db")
    store = engine.store()
    await store.open()
    await store.aclose()
    with closing(sqlite3.connect(engine.database)) as cx:
        cx.executescript(_WITNESS)
    yield engine
