"""The write gate of a SQLite file: writers of several processes queue at a POSIX lock.

SQLite's own busy handler polls with growing sleeps, so a process that writes rarely starves behind
two that write back to back. A blocking `fcntl.lockf` on a side file wakes its waiters instead; a
dead holder frees it at once. The same file proves deaths: worker `epoch` holds byte `epoch` for as
long as its process lives, whatever the process does or does not do.

POSIX locks belong to the process and vanish when *any* descriptor of the file is closed, so a
process has one descriptor per file, shared by all its stores and threads and closed by the last.
"""

from __future__ import annotations

import os
import struct
import sys
import threading
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

if sys.platform != "win32":  # elsewhere than on POSIX: SQLite's busy handler alone
    import fcntl

_WRITERS = 0  # the byte that writers lock; worker epochs start at 1
_NAMING = 1 << 40  # the byte that is locked while the file gets its name
_FLOCK = "qqihh" if sys.platform == "darwin" else "hhqqi"

_open: dict[tuple[int, str], FileGate] = {}
_open_guard = threading.Lock()


class FileGate:
    """One side file in this process. Get it with `gate_of`, give it back with `release`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.users = 0
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self.token = self._named()
        self._turn = threading.Condition()
        self._writing = False
        self._first = 0
        self._epochs: set[int] = set()

    def _named(self) -> str:
        """The file's own name, given to it when it is made. Workers register with it: a file that was
        removed and made anew has another, and proves nobody's death."""
        fcntl.lockf(self._fd, fcntl.LOCK_EX, 1, _NAMING)
        try:
            if not (found := os.pread(self._fd, 64, 0)):
                found = uuid.uuid4().hex.encode()
                os.pwrite(self._fd, found, 0)
            return found.decode("ascii", "replace")
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, _NAMING)

    @contextmanager
    def writing(self, *, first: bool = False) -> Generator[None]:
        """Hold the gate. Blocks without bound: the caller bounds what waits for it.

        `first`: ahead of this process's other threads (the heartbeat, which a writer that writes back
        to back must not starve). Among processes there is no such order.
        """
        self._enter(first)
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX, 1, _WRITERS)
            try:
                yield
            finally:
                fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, _WRITERS)
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
        """The process that holds the gate at this moment, if it is another one."""
        return self._holder(_WRITERS)

    def live(self, epoch: int) -> None:
        """This process vouches for the worker until it dies or says `dead`."""
        fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, epoch)
        self._epochs.add(epoch)

    def dead(self, epoch: int) -> None:
        self._epochs.discard(epoch)
        fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, epoch)

    def is_live(self, epoch: int) -> bool:
        return epoch in self._epochs or self._holder(epoch) is not None

    def _holder(self, byte: int) -> int | None:
        question = {"type": fcntl.F_WRLCK, "whence": os.SEEK_SET, "start": byte, "len": 1, "pid": 0}
        names = (
            ("start", "len", "pid", "type", "whence")
            if _FLOCK[0] == "q"
            else ("type", "whence", "start", "len", "pid")
        )
        packed = struct.pack(_FLOCK, *(question[name] for name in names))
        answer = dict(
            zip(names, struct.unpack(_FLOCK, fcntl.fcntl(self._fd, fcntl.F_GETLK, packed)), strict=True)
        )
        return None if answer["type"] == fcntl.F_UNLCK else answer["pid"]

    def close(self) -> None:
        os.close(self._fd)


def gate_of(database: Path) -> FileGate | None:
    """The gate of a database file, shared within the process. None where the platform has none."""
    if sys.platform == "win32":
        return None
    path = f"{database.resolve()}-gate"
    with _open_guard:
        mine = (os.getpid(), path)  # a forked child inherits the descriptor, but neither locks nor epochs
        gate = _open.get(mine)
        if gate is None:
            gate = _open[mine] = FileGate(path)
        gate.users += 1
        return gate


def release(gate: FileGate) -> None:
    """Give the gate back; the last user closes the descriptor."""
    with _open_guard:
        gate.users -= 1
        if gate.users == 0:
            del _open[os.getpid(), gate.path]
            gate.close()
