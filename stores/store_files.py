"""The files of an open SQLite store, and whether their names still lead to them."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from stores.errors import StoreReplaced

AMPLE = 4 << 30  # bytes; twice what SQLite takes for one value, and as much again
_MAX_PAGES = 0xFFFFFFFE  # SQLite's own bound
_SUFFIXES = ("", "-wal", "-gate")
_status = os.stat  # of a str: each transaction asks four times, and a Path costs as much again
_HEADER_BYTES = 100  # of a database file; the first of them says that it is one


class StoreFiles:
    """Made while connections are open: until the last is closed none of the files is made anew.

    What was written into a file that its name no longer leads to is lost, and whoever opens the name now
    works beside this process. Sees files that were removed, moved or replaced, and a database that was
    emptied; not what was written over in its place.
    """

    def __init__(self, database: Path) -> None:
        resolved = database.resolve()
        paths = [Path(f"{resolved}{suffix}") for suffix in _SUFFIXES]
        self._known = [(str(path), one) for path in paths if (one := _identity(str(path))) is not None]
        self._database = str(resolved)
        self._replaced: str | None = None

    def check(self) -> None:
        """Raises StoreReplaced; once it has, always. From any thread, some microseconds."""
        if self._replaced is None:
            self._replaced = self._look()
        if self._replaced is not None:
            raise StoreReplaced(self._replaced)

    def _look(self) -> str | None:
        for path, one in self._known:
            if _identity(path) != one:
                return path
        return self._database if _status(self._database).st_size < _HEADER_BYTES else None


class Room:
    """Bounds a transaction on a disk that is nearly full. For the one connection that writes, in its thread.

    A transaction that finds no room has filled the disk with its part of the log by then, and neither the log
    can be emptied into the database nor anybody else write. With a bound SQLite refuses the one statement
    that would need more, before it has written anything.
    """

    def __init__(self, database: Path) -> None:
        self._database, self._folder = str(database), str(database.parent)
        self._bounded = False

    def bound(self, cx: sqlite3.Connection) -> None:
        """At the beginning of a transaction: new pages need room twice, in the log and in the database."""
        try:
            disk, size = os.statvfs(self._folder), _status(self._database).st_size
        except OSError:
            return
        free = disk.f_bavail * disk.f_frsize
        if free > AMPLE and not self._bounded:
            return
        (page,), (pages,) = (cx.execute(f"PRAGMA {what}").fetchone() for what in ("page_size", "page_count"))
        in_log = max(0, pages * page - size)
        more = max(0, free - in_log) // (2 * page)
        self._bounded = free <= AMPLE
        cx.execute(f"PRAGMA max_page_count = {pages + more if self._bounded else _MAX_PAGES}")


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = _status(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
