"""A database file as the source of a copy: read only, in one snapshot."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from stores.errors import StoreRefused, StoreUnavailable
from stores.sql.columns import Column, Columns
from stores.sql.sqlite import schema
from stores.sql.tables import TABLES, Table


class Source(closing[sqlite3.Connection]):
    """Used in one thread at a time. Raises StoreUnavailable, StoreRefused."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise StoreUnavailable(f"{path} does not exist")
        uri = f"{path.resolve().as_uri()}?mode=ro"
        self._cx = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        super().__init__(self._cx)
        self.name = str(path.resolve())
        applied = schema.version(self._cx, str(path))
        if applied != schema.migrations()[-1].number:
            self._cx.close()
            raise StoreUnavailable(
                f"{path} has schema version {applied}", hint="Run `coordinator db migrate` on it first."
            )
        self._version = self._data_version()
        self._cx.execute("BEGIN")

    def live_workers(self, now: int) -> list[int]:
        """Epochs whose lease has not run out."""
        rows = self._cx.execute(
            "SELECT epoch FROM workers WHERE state <> 'dead' AND lease_until > ? ORDER BY epoch", (now,)
        )
        return [epoch for (epoch,) in rows]

    def counts(self) -> dict[str, int]:
        return {
            table.name: self._cx.execute(f"SELECT count(*) FROM {table.name}").fetchone()[0]
            for table in TABLES
        }

    def columns(self, table: Table) -> tuple[str, ...]:
        return tuple(name for _, name, *_ in self._cx.execute(f"PRAGMA table_info({table.name})"))

    def page(self, table: Table, after: Columns | None, limit: int) -> list[tuple[Column, ...]]:
        """Rows in the order of their keys, those behind `after`."""
        key, marks = ", ".join(table.key), ", ".join("?" * len(table.key))
        where = "" if after is None else f" WHERE ({key}) > ({marks})"
        names = ", ".join(f'"{name}"' for name in self.columns(table))
        query = f"SELECT {names} FROM {table.name}{where} ORDER BY {key} LIMIT ?"
        return self._cx.execute(query, (*(after or ()), limit)).fetchall()

    def check_untouched(self) -> None:
        """Ends the snapshot. Raises StoreRefused if another connection has written since it began."""
        self._cx.execute("COMMIT")
        if self._data_version() != self._version:
            raise StoreRefused(
                f"{self.name} was written while it was copied: stop all workers, drop the target's schema and"
                " copy again"
            )

    def _data_version(self) -> int:
        data_version: int = self._cx.execute("PRAGMA data_version").fetchone()[0]
        return data_version
