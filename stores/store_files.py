"""The files of an open SQLite store: detects that one was removed or replaced, and bounds the use of the
disk."""

from __future__ import annotations

import logging
import math
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from stores import gate as gates
from stores.byte_locks import process_named
from stores.errors import StoreRefused, StoreReplaced, StoreUnavailable

logger = logging.getLogger(__name__)

REPORTED_EVERY = 60.0  # s
AMPLE = (
    4 << 30
)  # bytes of free disk space: twice the size that one value of SQLite can need in log and database
_MAX_PAGES = 0xFFFFFFFE  # SQLite's own bound
PRIVATE = 0o600
_SUFFIXES = ("", "-wal", "-gate")
_making = threading.Lock()
"""Closing any descriptor of a file drops SQLite's locks on it in this process. So no store may open a new
file before the descriptor that created it is closed."""
_status = os.stat  # called four times for each transaction; with a str it takes half the time of a Path
_HEADER_BYTES = 100  # of a database file


class StoreFiles:
    """Must be created while connections are open: until the last one is closed, SQLite recreates none of the
    files.

    Writes to a file that was removed or replaced are lost, and other processes would use the new file at the
    same time. Detects files that were removed, moved or replaced, and a database that was truncated; not a
    database whose content was overwritten in place.
    """

    def __init__(self, database: Path, *, on_replaced: Callable[[], None] = lambda: None) -> None:
        """`on_replaced` is called once, from the thread that detects a replacement."""
        resolved = database.resolve()
        paths = [Path(f"{resolved}{suffix}") for suffix in _SUFFIXES]
        self._identities = [
            (str(path), identity) for path in paths if (identity := _identity(str(path))) is not None
        ]
        self._database = str(resolved)
        self._replaced: str | None = None
        self._on_replaced = on_replaced
        self._reported_at = -math.inf

    def check(self) -> None:
        """Raises StoreReplaced if a file was replaced, and from then on always. May be called from any
        thread; takes some µs."""
        if self._replaced is None:
            self._replaced = self._find_replaced()
            if self._replaced is not None:
                self._on_replaced()
        if self._replaced is not None:
            self._report(self._replaced)
            raise StoreReplaced(self._replaced)

    def _report(self, path: str) -> None:
        """Logs once a minute. Threads may do so at the same time: then it is logged twice."""
        now = time.monotonic()
        if now - self._reported_at >= REPORTED_EVERY:
            self._reported_at = now
            logger.error(
                "The store file %s was removed, moved, emptied or replaced while this process used it: it"
                " writes nothing more, its runs are stopped, and no run is admitted. Put the file back or"
                " restore the backup, then restart this process",
                path,
            )

    def _find_replaced(self) -> str | None:
        for path, identity in self._identities:
            if _identity(path) != identity:
                return path
        return self._database if _status(self._database).st_size < _HEADER_BYTES else None


def check_remains(database: Path) -> None:
    """Checks, before the file is opened or created, that no files of a removed or truncated database are
    left. Writes nothing.

    Raises StoreUnavailable if a process still uses the removed file, and StoreRefused if its write-ahead log
    is left: SQLite would delete the log, and with it committed transactions.
    """
    database = database.resolve()
    log = Path(f"{database}-wal")
    log_size = _size(log)
    if (_size(database) or 0) >= _HEADER_BYTES:
        return
    holder = _holder(database)
    size = _size(database)  # read last, because a process that creates a database writes its header first
    if (size or 0) >= _HEADER_BYTES or (holder is None and not log_size):
        return
    lost = f"{str(database)!r} was {'removed' if size is None else 'emptied'}"
    if holder is not None:
        raise StoreUnavailable(
            f"{lost}, and {holder} still uses the database that was there",
            hint="End that process, then try again. Nothing was written.",
        )
    raise StoreRefused(
        f"{lost}, but its write-ahead log {str(log)!r} ({log_size} bytes) was left. Restore the backup and"
        f" remove the log and {str(database) + '-shm'!r}; for a new, empty database remove both as well"
    )


def keep_log(cx: sqlite3.Connection) -> None:
    """Disables the checkpoint at the close of the connection, because the file was replaced. On Python 3.11
    this is not possible; there SQLite itself detects a removed or moved file, but not a replaced one."""
    if sys.version_info >= (3, 12):
        cx.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE)


def _holder(database: Path) -> str | None:
    """Returns the process of a live worker that holds the gate; None = there is none, or unknown."""
    try:
        gate = gates.gate_of(database) if Path(f"{database}-gate").exists() else None
    except OSError:  # raised again when the store is opened
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
    """Raises ValueError for a name that SQLite does not treat as a plain path."""
    if str(path) == ":memory:":
        raise ValueError("connections cannot share a database in memory: use memory://")
    if str(path).startswith("file:"):
        raise ValueError("file: URIs are not supported: give a plain path")
    if "\0" in str(path):
        raise ValueError("a path cannot contain a NUL character")
    return path


def check_is_file(path: Path) -> None:
    """Raises StoreUnavailable if the file does not exist or is a folder."""
    if path.is_dir():
        raise StoreUnavailable(f"{str(path)!r} is a folder", hint="Name the database file in it.")
    if not path.is_file():
        raise StoreUnavailable(
            f"{str(path)!r} does not exist",
            hint="Is it in another folder? Name it with --store. Or create it: `coordinator db migrate`.",
        )


def make_private(database: Path) -> None:
    """Creates an empty file that only its owner can read and write, if the file does not exist. SQLite would
    use the umask; its log and index, and the gate, get the mode of the database. Raises nothing if the file
    cannot be created, because SQLite reports the reason when it opens it."""
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
    """Bounds a transaction on a disk that is nearly full. Belongs to the connection that writes, and its
    thread.

    Without a bound, a transaction that fails has already filled the disk with its part of the log: then the
    log cannot be checkpointed into the database, and no other transaction can write. With a bound, SQLite
    refuses the statement that would need more space, before it writes.
    """

    def __init__(self, database: Path) -> None:
        self._database, self._folder = str(database), str(database.parent)
        self._bounded = False

    def bound(self, cx: sqlite3.Connection) -> None:
        """Must be called at the start of a transaction. New pages need space twice: in the log and in the
        database."""
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
        status = _status(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
