"""Reports how long the writers of a SQLite file have been waiting for its lock, and which process has it.

Any program can lock the file: a backup, a shell with an open transaction. Such a program is not in the queue
at the gate, so the gate names only the worker that waits at its head. The kernel's list of locks (Linux:
/proc/locks) names the holder without opening the file: to close a descriptor of it would drop SQLite's own
locks in this process.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, runtime_checkable

from stores.errors import StoreUnavailable
from stores.file_access import obstacle
from stores.group_commit import as_store_error

logger = logging.getLogger(__name__)

REPORTED_AFTER = 2.0  # s
EXAMINED_EVERY = 0.5  # s
_SHOWN = 5
_LOCKS = Path("/proc/locks")
_DATABASE_LOCKS = range(0x40000000, 0x40000000 + 512)  # pending, reserved, shared
_LOG_LOCKS = (120, 122)  # of the -shm file: writer, recovery


class LockWatch:
    """Threads write within `waiting`. The event loop examines them periodically between `start` and `stop`;
    each period in which no writer gets the lock is logged once, and its end once."""

    def __init__(self, database: Path, gate_holder: Callable[[], int | None]) -> None:
        """`gate_holder` returns the pid of another process that holds the gate; 0 = unknown."""
        self._database, self._gate_holder = database.absolute(), gate_holder
        self.runs: Callable[[], Iterable[str]] = tuple
        """Returns the ids of the runs that wait for writes; called in the event loop."""
        self._waiting: dict[str, float] = {}
        self._granted_at = 0.0
        self._failed_since: float | None = None
        self._examined_at = 0.0
        self._reported_since: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    # -- any thread

    @contextmanager
    def waiting(self, writer: str) -> Generator[None]:
        """Around a transaction and all that it waits for. `granted` ends the waiting within the block."""
        self._waiting[writer] = time.monotonic()
        try:
            yield
        except BaseException as error:
            since = self._waiting.get(writer)
            if since is not None and _is_busy(error):
                self._failed_since = self._failed_since or since
            raise
        finally:
            self._waiting.pop(writer, None)

    def granted(self, writer: str) -> None:
        self._waiting.pop(writer, None)
        self._granted_at, self._failed_since = time.monotonic(), None

    @property
    def blocked_since(self) -> float | None:
        """Since when no writer has got the lock (`time.monotonic`); None = no writer waits for it."""
        waiting = [*self._waiting.copy().values()]
        if (failed := self._failed_since) is not None:
            waiting.append(failed)
        return max(min(waiting), self._granted_at) if waiting else None

    @property
    def trouble(self) -> str | None:
        """Who has locked the file for how long, if that is worth a report; else None."""
        since = self.blocked_since
        waited = 0.0 if since is None else time.monotonic() - since
        return self._locked_for(waited) if waited >= REPORTED_AFTER else None

    def holder_pid(self) -> int | None:
        """The pid of another process that keeps writers waiting at this moment; 0 = unknown process, None =
        no process."""
        return _lock_holder(self._database) or self._gate_holder()

    def locked_by(self) -> str:
        """Names the process and what to do, to follow "locked"."""
        foreign = _lock_holder(self._database)
        gate = self._gate_holder() if foreign is None else None
        pid = foreign or gate
        who = f"process {pid}{_program(pid)}" if pid else "another process, which cannot be named"
        queue = ", which is at the head of the queue of writers" if gate else ""
        return f" by {who}{queue}; `fuser {self._database}` or `lsof` lists the processes that have it open"

    def error_of(self, error: BaseException) -> BaseException:
        """As `as_store_error`; names the holder of the lock if the file is locked, and the file or folder
        that this process cannot write."""
        if _is_busy(error):
            unavailable = StoreUnavailable(f"{self._database} is locked{self.locked_by()}")
        elif _is_denied(error) and (why := obstacle(self._database)) is not None:
            unavailable = StoreUnavailable(why, hint="Make it writable (chmod, chown). Nothing was written.")
        else:
            return as_store_error(error)
        unavailable.__cause__ = error
        return unavailable

    def _locked_for(self, seconds: float) -> str:
        return f"{self._database} has been locked for {seconds:.1f} s{self.locked_by()}"

    # -- the event loop

    def start(self) -> None:
        self._examined_at = time.monotonic()
        self._timer = asyncio.get_running_loop().call_later(EXAMINED_EVERY, self._examine)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _examine(self) -> None:
        now, since = time.monotonic(), self.blocked_since
        # After a pause of the process or its loop, the writers' threads continue before they are judged.
        was_paused = now - self._examined_at > REPORTED_AFTER
        blocked = since is not None and now - since >= REPORTED_AFTER
        if blocked and not was_paused and self._reported_since is None:
            self._reported_since = since
            logger.warning(
                "The store file %s. No worker can write until it is unlocked: end that process or its"
                " transaction. Runs and cancels of this worker wait, and its runs are stopped when its lease"
                " ends%s",
                self._locked_for(now - (since or now)),
                self._waiting_runs(),
            )
        elif not blocked and self._reported_since is not None:
            logger.info(
                "The store file %s is no longer locked: writes continue after %.1f s",
                self._database,
                now - self._reported_since,
            )
            self._reported_since = None
        self.start()

    def _waiting_runs(self) -> str:
        runs = [repr(run_id) for run_id in self.runs()]
        more = f" and {len(runs) - _SHOWN} more" if len(runs) > _SHOWN else ""
        return f". Runs that wait: {', '.join(runs[:_SHOWN])}{more}" if runs else ""


@runtime_checkable
class LockWatched(Protocol):
    """A store in a file, which any process can lock for all others."""

    @property
    def lock_watch(self) -> LockWatch: ...


def _is_busy(error: BaseException) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def _is_denied(error: BaseException) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return isinstance(error, OSError) or code in (
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_IOERR,
    )


def _lock_holder(database: Path) -> int | None:
    """Returns the pid of another process that holds a lock of SQLite on the file which excludes writers; None
    = there is none, or the platform does not list locks."""
    try:
        keys = {_key(database): _DATABASE_LOCKS, _key(Path(f"{database}-shm")): _LOG_LOCKS}
        lines = _LOCKS.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        # 1: POSIX  ADVISORY  WRITE 29784 fe:00:11371266 120 120
        _, kind, *fields = line.split()
        if kind != "POSIX" or len(fields) != 6 or fields[1] != "WRITE":
            continue
        pid, file, start = int(fields[2]), fields[3], int(fields[4])
        if pid != os.getpid() and start in keys.get(file, ()):
            return pid
    return None


def _key(path: Path) -> str:
    """The file as /proc/locks names it."""
    status = path.stat()
    device = status.st_dev
    return f"{os.major(device):02x}:{os.minor(device):02x}:{status.st_ino}"


def _program(pid: int) -> str:
    try:
        return f" ({Path(f'/proc/{pid}/comm').read_text().strip()})"
    except OSError:
        return ""
