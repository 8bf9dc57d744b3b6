"""Exclusive locks on single bytes of an open file, between processes.

On Linux these are open file description (OFD) locks: they end with the last descriptor of one `open`,
independently of other descriptors of the file. On kernels without OFD locks (macOS, old kernels) they are
POSIX record locks, which belong to the process and end when it closes *any* descriptor of the file: it is
enough that the process copies the file. The two kinds exclude each other.

The kernel does not report the holder of an OFD lock. So each lock has a companion lock, whose offset contains
the process id, and which ends together with it.
"""

from __future__ import annotations

import os
import struct
import sys
from functools import lru_cache

if sys.platform != "win32":
    import fcntl

UNKNOWN = 0
"""The holder is another process whose id the kernel does not report."""

_FLOCK = "qqihh" if sys.platform == "darwin" else "hhqqi"
_NAMES: tuple[str, ...] = (
    ("start", "len", "pid", "type", "whence")
    if sys.platform == "darwin"
    else ("type", "whence", "start", "len", "pid")
)
_HOLDERS = 1 << 61  # first offset of the companion locks, which contain the pid
_PID_BITS = 22  # Linux: at most 4,194,304 process ids


def process_named(pid: int | None) -> str:
    """Returns a description of a holder. None is treated as UNKNOWN."""
    return f"process {pid}" if pid else "a process that cannot be named"


class ByteLocks:
    """Locks through the descriptor `fd`, which the caller opens and closes. A byte offset is at most 2**40.

    Locks of one `ByteLocks` do not exclude each other: threads of one process need another lock.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.per_description = _has_ofd(fd)
        """True: OFD locks. False: POSIX locks, which a live process can lose."""

    def acquire(self, byte: int, *, wait: bool = True) -> None:
        """Locks a byte. Blocks without a timeout, or raises BlockingIOError without `wait`. Idempotent."""
        if sys.platform == "linux" and self.per_description:
            command = fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK
            fcntl.fcntl(self.fd, command, _packed(fcntl.F_WRLCK, byte))
            fcntl.fcntl(self.fd, fcntl.F_OFD_SETLK, _packed(fcntl.F_WRLCK, _companion(byte) + os.getpid()))
        else:
            fcntl.lockf(self.fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, byte)

    def release(self, byte: int) -> None:
        if sys.platform == "linux" and self.per_description:
            fcntl.fcntl(self.fd, fcntl.F_OFD_SETLK, _packed(fcntl.F_UNLCK, _companion(byte) + os.getpid()))
            fcntl.fcntl(self.fd, fcntl.F_OFD_SETLK, _packed(fcntl.F_UNLCK, byte))
        else:
            fcntl.lockf(self.fd, fcntl.LOCK_UN, 1, byte)

    def holder(self, byte: int) -> int | None:
        """Returns the pid of another process that holds the byte; None = there is none, UNKNOWN = the kernel
        does not report it."""
        lock = self._conflict(byte, 1)
        if lock is None:
            return None
        if (pid := lock["pid"]) > 0:
            return pid
        named = self._conflict(_companion(byte), 1 << _PID_BITS)
        return UNKNOWN if named is None else named["start"] - _companion(byte)

    def any_holder(self, start: int, end: int) -> int | None:
        """Returns the holder of one of the bytes from `start` up to `end`, as `holder` does."""
        lock = self._conflict(start, end - start)
        return None if lock is None else self.holder(max(start, lock["start"]))

    def held_as_posix(self, byte: int) -> bool:
        """Returns whether another process holds the byte by a POSIX lock, which it can lose."""
        lock = self._conflict(byte, 1)
        return lock is not None and lock["pid"] > 0

    def _conflict(self, start: int, length: int) -> dict[str, int] | None:
        """Returns a lock of another process in that range, or None."""
        command = fcntl.F_GETLK
        if sys.platform == "linux" and self.per_description:
            command = fcntl.F_OFD_GETLK
        answer = fcntl.fcntl(self.fd, command, _packed(fcntl.F_WRLCK, start, length))
        lock = dict(zip(_NAMES, struct.unpack(_FLOCK, answer), strict=True))
        return None if lock["type"] == fcntl.F_UNLCK else lock


@lru_cache(maxsize=64)
def _packed(kind: int, start: int, length: int = 1) -> bytes:
    lock = {"type": kind, "whence": os.SEEK_SET, "start": start, "len": length, "pid": 0}
    return struct.pack(_FLOCK, *(lock[name] for name in _NAMES))


def _companion(byte: int) -> int:
    return _HOLDERS + (byte << _PID_BITS)


def _has_ofd(fd: int) -> bool:
    if sys.platform != "linux":
        return False
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _packed(fcntl.F_WRLCK, 0))
    except OSError:  # a kernel before Linux 3.15, or an emulation
        return False
    return True
