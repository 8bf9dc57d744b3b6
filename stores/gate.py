"""The write gate of a SQLite file: writers of several processes queue at a lock on a side file.

SQLite's own busy handler polls with growing sleeps, so a process that writes rarely starves behind
two that write back to back. A blocking lock wakes its waiters instead; a dead holder frees it at once.
The same file proves deaths: worker `epoch` holds byte `epoch` for as long as its process lives.

See `stores.byte_locks` for what ends a lock. A process has one descriptor per file, shared by all its
stores and threads and closed by the last. A forked child closes what it inherits: it must not keep the
locks of a parent that has died.
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
_NAMING = 1 << 40  # the byte that is locked while the file gets its name
_NAME_BYTES = 64
_MODE = 0o600  # where there is no database file

_open: dict[str, FileGate] = {}
_open_guard = threading.Lock()


class FileGate:
    """One side file in this process. Get it with `gate_of`, give it back with `release`."""

    def __init__(self, path: str, database: Path) -> None:
        self.path = path
        self.users = 0
        self._fd = _opened(path, database)
        self._locks = ByteLocks(self._fd)
        self.token = self._named()
        self._turn = threading.Condition()
        self._writing = False
        self._first = 0
        self._epochs: set[int] = set()
        self._as_posix: set[int] = set()

    def _named(self) -> str:
        """The file's own name, given to it when it is made, and on the disk before any worker registers with
        it: a file that was removed and made anew has another, and proves nobody's death."""
        self._locks.acquire(_NAMING)
        try:
            # A power cut may leave the length of a name without its bytes.
            if not (found := os.pread(self._fd, _NAME_BYTES, 0).strip(b"\0")):
                found = uuid.uuid4().hex.encode()
                os.pwrite(self._fd, found, 0)
                os.fsync(self._fd)
                _sync_folder(self.path)
            return found.decode("ascii", "replace")
        finally:
            self._locks.release(_NAMING)

    @contextmanager
    def writing(self, *, first: bool = False) -> Generator[None]:
        """Hold the gate. Blocks without bound: the caller bounds what waits for it.

        `first`: ahead of this process's other threads (the heartbeat, which a writer that writes back
        to back must not starve). Among processes there is no such order.
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
        """The process that holds the gate at this moment, if it is another one. 0 = one that the kernel
        does not name."""
        return self._locks.holder(_WRITERS)

    def worker_pid(self) -> int | None:
        """The process of some live worker, this one included. 0 = one that the kernel does not name."""
        return os.getpid() if self._epochs else self._locks.any_holder(1, _NAMING)

    def live(self, epoch: int) -> None:
        """This process vouches for the worker until it dies or calls `dead`. Raises BlockingIOError, with
        the process in its text, where another one does."""
        try:
            self._locks.acquire(epoch, wait=False)
        except BlockingIOError as error:
            raise BlockingIOError(error.errno, self._taken(epoch)) from None
        self._epochs.add(epoch)

    def _taken(self, epoch: int) -> str:
        process = process_named(self._locks.holder(epoch))
        return (
            f"{process} still holds worker epoch {epoch} in {self.path}: perhaps it works on a database file"
            " that was removed or replaced. End it, then start this one again"
        )

    def renew(self) -> None:
        """Take the bytes of this process's workers again, where it may have lost them by closing another
        descriptor of the file. At each heartbeat."""
        if not self._locks.per_description:
            for epoch in tuple(self._epochs):
                with suppress(BlockingIOError):  # a newer holder of the number: `dead` comes
                    self._locks.acquire(epoch, wait=False)

    def dead(self, epoch: int) -> None:
        self._epochs.discard(epoch)
        self._locks.release(epoch)

    def is_live(self, epoch: int) -> bool:
        """Some process holds the byte of the worker."""
        if epoch in self._epochs:
            return True
        if self._locks.held_as_posix(epoch):
            self._as_posix.add(epoch)
            return True
        return self._locks.holder(epoch) is not None

    def proves_death(self, epoch: int, pid: int) -> bool:
        """The process of the worker has ended. False where that is not certain.

        A free byte is proof alone if its lock belonged to an open file. A POSIX lock (as earlier versions
        hold it, and platforms without OFD locks) may have been lost by a live process: then there must be no
        process `pid` either.
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
    """The gate of a database file, shared within the process. None where the platform has none."""
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
    """Whoever may write the database may use the gate: it gets the same mode, whatever the umask, and, where
    root makes it, the same owner, as SQLite does with its own files. Raises OSError."""
    try:
        like = database.stat()
    except FileNotFoundError:
        like = None
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        # Only here: in a sticky folder O_CREAT may not name a file of another user's.
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)
        if like is not None and os.geteuid() == 0:
            os.fchown(fd, like.st_uid, like.st_gid)
    if like is not None and like.st_mode & stat.S_IWUSR:
        mode, found = stat.S_IMODE(like.st_mode) & 0o666, os.fstat(fd)
        if stat.S_IMODE(found.st_mode) != mode and os.geteuid() in {0, found.st_uid}:
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
    """Give the gate back; the last user closes the descriptor."""
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
    except OSError:  # another user's
        return False
    return False


def _forked() -> None:
    """In a child: close what belongs to the parent, whose locks last until the last copy is closed. Its
    epochs are not the child's either."""
    for gate in _open.values():
        gate.close()
    _open.clear()
    _open_guard.release()


if sys.platform != "win32":
    os.register_at_fork(
        before=_open_guard.acquire, after_in_parent=_open_guard.release, after_in_child=_forked
    )
