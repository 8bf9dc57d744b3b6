"""A connection to a SQLite file: how it is made, and how the file is brought to this program's schema."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from stores.errors import StoreRefused, StoreUnavailable
from stores.sql.sqlite import contains, schema
from stores.sql.sqlite.durability import journal_statements_in_memory, make_durable

Synchronous = Literal["FULL", "NORMAL"]


def connect(path: Path, *, timeout: float, query_only: bool = False) -> sqlite3.Connection:
    """For any thread. `timeout` (s): how long SQLite waits for locks."""
    cx = sqlite3.connect(
        path, timeout=timeout, isolation_level=None, cached_statements=512, check_same_thread=False
    )
    try:
        contains.register(cx)
        if query_only:
            cx.execute("PRAGMA query_only = ON")
    except BaseException:
        cx.close()
        raise
    return cx


class Preparation(NamedTuple):
    """What a writer's connection needs. `patience`: s. `spare`: the time (us) by which workers live that a
    migration must not leave behind; None = it may."""

    path: Path
    synchronous: Synchronous
    patience: float
    migrate: bool
    spare: Callable[[], int] | None

    def prepare(self, cx: sqlite3.Connection) -> list[str]:
        """The names of the migrations that were applied. Bounded by `patience`, also where SQLite itself does
        not wait: a change of the journal mode gets "database is locked" at once when two processes open a new
        file together.

        Raises StoreUnavailable for an old schema that is not to be migrated, and as `schema.migrate`."""
        deadline = time.monotonic() + self.patience
        while True:
            try:
                return self._check_and_migrate(cx)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                    raise
                time.sleep(0.01)

    def _check_and_migrate(self, cx: sqlite3.Connection) -> list[str]:
        applied = schema.version(cx, str(self.path))
        old = applied < schema.migrations()[-1].number
        if old and not self.migrate:
            raise StoreUnavailable(
                f"{self.path} has schema version {applied}", hint="Run `coordinator db migrate` first."
            )
        make_durable(cx, self.synchronous)
        cx.execute("PRAGMA journal_mode = WAL")
        spare = None if self.spare is None or not old else self.spare()
        migrated = schema.migrate(cx, str(self.path), spare=spare) if old else []
        journal_statements_in_memory(cx)
        return migrated


def read_every_table(cx: sqlite3.Connection, path: Path) -> None:
    """Over a connection that has nothing in memory, so that the file itself is read. Raises StoreRefused,
    sqlite3.Error."""
    if schema.version(cx, str(path)) == 0:
        raise StoreRefused(f"{path} is empty, although this process has written into it")
    for table in schema.tables(cx):
        cx.execute(f'SELECT 1 FROM "{table}" LIMIT 1').fetchone()  # noqa: S608 - as the schema names it
