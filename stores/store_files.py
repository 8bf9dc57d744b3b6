"""The files of an open SQLite store, and whether their names still lead to them."""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from stores import gate as gates
from stores.byte_locks import process_named
from stores.errors import StoreRefused, StoreReplaced, StoreUnavailable

AMPLE = 4 << 30  # bytes; twice what SQLite takes for one value, and as much again
_MAX_PAGES = 0xFFFFFFFE  # SQLite's own bound
PRIVATE = 0o600
_SUFFIXES = ("", "-wal", "-gate")
_making = threading.Lock()
"""Closing any descriptor of a file drops the locks that SQLite has on it in this process. So no other store
may open the new file before the descriptor that made it is closed."""
_status = os.stat  # of a str: each transaction asks four times, and a Path costs as much again
_HEADER_BYTES = 100  # of a database file; the first of them says that it is one


class StoreFiles:
    """Made while connections are open: until the last is closed none of the files is made anew.

    What was written into a file that its name no longer leads to is lost, and whoever opens the name now
    works beside this process. Sees files that were removed, moved or replaced, and a database that was
    emptied; not what was written over in its place.
    """

    def __init__(self, database: Path, *, on_replaced: Callable[[], None] = lambda: None) -> None:
        """`on_replaced` is called once, from whichever thread finds it."""
        resolved = database.resolve()
        paths = [Path(f"{resolved}{suffix}") for suffix in _SUFFIXES]
        self._known = [(str(path), one) for path in paths if (one := _identity(str(path))) is not None]
        self._database = str(resolved)
        self._replaced: str | None = None
        self._on_replaced = on_replaced

    def check(self) -> None:
        """Raises StoreReplaced; once it has, always. From any thread, some microseconds."""
        if self._replaced is None:
            self._replaced = self._look()
            if self._replaced is not None:
                self._on_replaced()
        if self._replaced is not None:
            raise StoreReplaced(self._replaced)

    def _look(self) -> str | None:
        for path, one in self._known:
            if _identity(path) != one:
                return path
        return self._database if _status(self._database).st_size < _HEADER_BYTES else None


def check_remains(database: Path) -> None:
    """Before the file is opened or made: that nothing of another database is left beside a name that leads to
    no database. Writes nothing.

    Raises StoreUnavailable where a process still works on the file that was there, and StoreRefused where its
    write-ahead log was left: SQLite would remove the log, and with it what was committed.
    """
    database = database.resolve()
    log = Path(f"{database}-wal")
    left = _size(log)
    if (_size(database) or 0) >= _HEADER_BYTES:
        return
    held = _holder(database)
    found = _size(database)  # after the others: a process that makes one has its header before them
    if (found or 0) >= _HEADER_BYTES or (held is None and not left):
        return
    lost = f"{str(database)!r} was {'removed' if found is None else 'emptied'}"
    if held is not None:
        raise StoreUnavailable(
            f"{lost}, and {held} still works on the database that was there",
            hint="End that process, then try again. Nothing was written.",
        )
    raise StoreRefused(
        f"{lost}, but its write-ahead log {str(log)!r} ({left} bytes) was left. Restore the backup and"
        f" remove the log and {str(database) + '-shm'!r}; for a new, empty database remove both as well"
    )


def keep_log(cx: sqlite3.Connection) -> None:
    """Do not write the log into the database at the close of the connection: the name leads to another one.
    Python 3.11 cannot say so to SQLite, which finds only out by itself if the file was removed or moved."""
    if sys.version_info >= (3, 12):
        cx.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE)


def _holder(database: Path) -> str | None:
    """The process of a live worker of the gate that stands beside the name. None = none, or cannot tell."""
    try:
        gate = gates.gate_of(database) if Path(f"{database}-gate").exists() else None
    except OSError:  # opening the store will say why
        return None
    if gate is None:
        return None
    try:
        pid = gate.worker_pid()
    finally:
        gates.release(gate)
    return None if pid is None else process_named(pid)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def plain_path(path: Path) -> Path:
    """SQLite reads other things into some names; the files beside the database would not follow it."""
    if str(path) == ":memory:":
        raise ValueError("in memory there is nothing to share between connections: use memory://")
    if str(path).startswith("file:"):
        raise ValueError("file: URIs are not supported: give a plain path")
    if "\0" in str(path):
        raise ValueError("a path cannot contain a NUL character")
    return path


def check_is_file(path: Path) -> None:
    """Raises StoreUnavailable."""
    if path.is_dir():
        raise StoreUnavailable(f"{str(path)!r} is a folder", hint="Name the database file in it.")
    if not path.is_file():
        raise StoreUnavailable(
            f"{str(path)!r} does not exist",
            hint="Is it in another folder? Name it with --store. Or create it: `coordinator db migrate`.",
        )


def make_private(database: Path) -> None:
    """Make an empty file that only its owner can read and write, whatever the umask, if there is no file.
    SQLite gives its log and index the mode of the database, and so does the gate; SQLite itself would go by
    the umask. If the file cannot be made, nothing is raised: SQLite says why when it opens it."""
    with _making:
        try:
            descriptor = os.open(
                database.resolve(), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE
            )
        except OSError:
            return
        try:
            os.fchmod(descriptor, PRIVATE)
        finally:
            os.close(descriptor)


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
