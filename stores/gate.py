"""The write gate of a SQLite file: writers of several processes queue at a lock on a side file.

SQLite's own busy handler polls with growing sleeps, so a process that writes rarely starves behind two that
write continuously. A blocking lock wakes its waiters instead, and the death of its holder releases it at
once. The same file proves deaths: the worker `epoch` holds byte `epoch` as long as its process lives.

`stores.byte_locks` describes what ends a lock. A process has one descriptor for each file, which all its
stores and threads share, and the last one closes. A forked child closes inherited descriptors, because it
must not keep the locks of a dead parent.
"""

from __future__ import annotations

import os
import stat
import sys
import threading
import uuid
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from stores.byte_locks import ByteLocks, process_named

_WRITERS = 0  # the byte that writers lock; worker epochs start at 1
_NAMING = 1 << 40  # the byte that is locked while the token is written
_NAME_BYTES = 64
_MODE = 0o600  # of the side file if there is no database file

_open: dict[str, FileGate] = {}
_open_guard = threading.Lock()


class FileGate:
    """One side file in this process. Acquired with `gate_of`, released with `release`."""

    def __init__(self, path: str, database: Path) -> None:
        self.path = path
        self.users = 0
        self._fd = _opened(path, database)
        self._locks = ByteLocks(self._fd)
        self.token = self._read_or_write_token()
        self._turn = threading.Condition()
        self._writing = False
        self._first = 0
        self._epochs: set[int] = set()
        self._as_posix: set[int] = set()

    def _read_or_write_token(self) -> str:
        """Returns the unique token in the file, which is durable before any worker registers with it. A file
        that was removed and created again has another token, and so proves no death."""
        self._locks.acquire(_NAMING)
        try:
            # After a power failure the file may have its length, but zeros instead of the token.
            if not (token := os.pread(self._fd, _NAME_BYTES, 0).strip(b"\0")):
                token = uuid.uuid4().hex.encode()
                os.pwrite(self._fd, token, 0)
                os.fsync(self._fd)
                _sync_folder(self.path)
            return token.decode("ascii", "replace")
        finally:
            self._locks.release(_NAMING)

    @contextmanager
    def writing(self, *, first: bool = False) -> Generator[None]:
        """Holds the gate within the block. Blocks without a timeout: the caller must bound its waiters.

        `first`: before the other threads of this process. For heartbeats, which a continuous writer must not
        starve. There is no such priority between processes.
        """
        self._enter(first)
        try:
            self._locks.acquire(_WRITERS)
            try:
                yield
            finally:
                self._locks.release(_WRITERS)
        finally:
            self._leave()

    def _enter(self, first: bool) -> None:
        with self._turn:
            self._first += first
            try:
                while self._writing or (self._first and not first):
                    self._turn.wait()
            finally:
                self._first -= first
            self._writing = True

    def _leave(self) -> None:
        with self._turn:
            self._writing = False
            self._turn.notify_all()

    def writer_pid(self) -> int | None:
        """Returns the pid of another process that holds the gate at this moment, or None. 0 = the kernel does
        not report the pid."""
        return self._locks.holder(_WRITERS)

    def worker_pid(self) -> int | None:
        """Returns the pid of a live worker, which may be this process, or None. 0 = the kernel does not
        report it."""
        return os.getpid() if self._epochs else self._locks.any_holder(1, _NAMING)

    def live(self, epoch: int) -> None:
        """Locks the byte of a worker of this process, until the process ends or calls `dead`. Raises
        BlockingIOError, with the holder in its text, if another process holds it."""
        try:
            self._locks.acquire(epoch, wait=False)
        except BlockingIOError as error:
            raise BlockingIOError(error.errno, self._held_elsewhere(epoch)) from None
        self._epochs.add(epoch)

    def _held_elsewhere(self, epoch: int) -> str:
        process = process_named(self._locks.holder(epoch))
        return (
            f"{process} still holds worker epoch {epoch} in {self.path}: it may use a database file that was"
            " removed or replaced. End it, then restart this process"
        )

    def renew(self) -> None:
        """Locks the bytes of this process's workers again, because a POSIX lock is lost when another
        descriptor of the file is closed. Called at each heartbeat."""
        if not self._locks.per_description:
            for epoch in tuple(self._epochs):
                with suppress(BlockingIOError):  # another process holds the byte: this epoch will be fenced
                    self._locks.acquire(epoch, wait=False)

    def dead(self, epoch: int) -> None:
        """Unlocks the byte of a worker of this process."""
        self._epochs.discard(epoch)
        self._locks.release(epoch)

    def is_live(self, epoch: int) -> bool:
        """Returns whether a process holds the byte of the worker."""
        if epoch in self._epochs:
            return True
        if self._locks.held_as_posix(epoch):
            self._as_posix.add(epoch)
            return True
        return self._locks.holder(epoch) is not None

    def proves_death(self, epoch: int, pid: int) -> bool:
        """Returns whether the process of the worker has certainly ended.

        A free byte is sufficient proof if its lock was an OFD lock. A live process may lose a POSIX lock
        (used by earlier versions, and on platforms without OFD locks): then the process `pid` must not exist
        either.
        """
        if self.is_live(epoch):
            return False
        return (self._locks.per_description and epoch not in self._as_posix) or _has_ended(pid)

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._locks.fd = -1
            os.close(fd)


def gate_of(database: Path) -> FileGate | None:
    """Returns the gate of a database file, which is shared within the process; None on Windows."""
    if sys.platform == "win32":
        return None
    path = f"{database.resolve()}-gate"
    with _open_guard:
        gate = _open.get(path)
        if gate is None:
            gate = _open[path] = FileGate(path, database)
        gate.users += 1
        return gate


def _opened(path: str, database: Path) -> int:
    """Opens or creates the side file. It gets the mode of the database independently of the umask, and if
    root creates it, the owner as well, as SQLite does for its files: every user that may write the database
    may use the gate. Raises OSError."""
    try:
        database_stat = database.stat()
    except FileNotFoundError:
        database_stat = None
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        # Not above: in a sticky folder, opening another user's existing file with O_CREAT is refused.
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)
        if database_stat is not None and os.geteuid() == 0:
            os.fchown(fd, database_stat.st_uid, database_stat.st_gid)
    if database_stat is not None and database_stat.st_mode & stat.S_IWUSR:
        mode, current = stat.S_IMODE(database_stat.st_mode) & 0o666, os.fstat(fd)
        if stat.S_IMODE(current.st_mode) != mode and os.geteuid() in {0, current.st_uid}:
            os.fchmod(fd, mode)
    return fd


def _sync_folder(path: str) -> None:
    fd = os.open(Path(path).parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # some file systems refuse it for a folder
            os.fsync(fd)
    finally:
        os.close(fd)


def release(gate: FileGate) -> None:
    """Releases the gate; the last user closes the descriptor."""
    with _open_guard:
        gate.users -= 1
        if gate.users == 0:
            if _open.get(gate.path) is gate:  # else a fork has closed it
                del _open[gate.path]
            gate.close()


def _has_ended(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # it exists and belongs to another user
        return False
    return False


def _forked() -> None:
    """Called in a forked child: closes the parent's descriptors, because the parent's locks last until the
    last copy is closed, and forgets the parent's epochs."""
    for gate in _open.values():
        gate.close()
    _open.clear()
    _open_guard.release()


if sys.platform != "win32":
    os.register_at_fork(
        before=_open_guard.acquire, after_in_parent=_open_guard.release, after_in_child=_forked
    )
