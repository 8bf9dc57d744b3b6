"""Exclusive locks on single bytes of an open file, between processes.

On Linux these are open file description (OFD) locks: they end with the last descriptor of that one `open`,
whatever else the process opens and closes. Where the kernel has none (macOS, old kernels) they are POSIX
record locks, which belong to the process and vanish when it closes *any* descriptor of the file: copying
the file in the process that holds the lock is enough. The two kinds exclude each other.

The kernel does not name the holder of an OFD lock. Therefore a second lock stands beside each: its offset
contains the process id, and it ends together with the first.
"""

from __future__ import annotations

import os
import struct
import sys
from functools import lru_cache

if sys.platform != "win32":
    import fcntl

UNKNOWN = 0
"""The holder is another process whose id the kernel does not say."""

_FLOCK = "qqihh" if sys.platform == "darwin" else "hhqqi"
_NAMES: tuple[str, ...] = (
    ("start", "len", "pid", "type", "whence")
    if sys.platform == "darwin"
    else ("type", "whence", "start", "len", "pid")
)
_HOLDERS = 1 << 61  # where the locks that name a holder begin
_PID_BITS = 22  # Linux: at most 4,194,304 process ids


def process_named(pid: int | None) -> str:
    """A holder in words; None is as UNKNOWN."""
    return f"process {pid}" if pid else "a process that cannot be named"


class ByteLocks:
    """Locks over the descriptor `fd`, which the caller opens and closes. A byte is at most 2**40.

    Locks of one `ByteLocks` do not exclude each other: threads need a lock of their own.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.per_description = _has_ofd(fd)
        """OFD locks. False: POSIX locks, which the process can lose while it lives."""

    def acquire(self, byte: int, *, wait: bool = True) -> None:
        """Blocks without bound; raises BlockingIOError where it shall not `wait`. Idempotent."""
        if sys.platform == "linux" and self.per_description:
            command = fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK
            fcntl.fcntl(self.fd, command, _packed(fcntl.F_WRLCK, byte))
            fcntl.fcntl(self.fd, fcntl.F_OFD_SETLK, _packed(fcntl.F_WRLCK, _named(byte) + os.getpid()))
        else:
            fcntl.lockf(self.fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, byte)

    def release(self, byte: int) -> None:
        if sys.platform == "linux" and self.per_description:
            fcntl.fcntl(self.fd, fcntl.F_OFD_SETLK, _packed(fcntl.F_UNLCK, _named(byte) + os.getpid()))
            fcntl.fcntl(self.fd, fcntl.F_OFD_SETLK, _packed(fcntl.F_UNLCK, byte))
        else:
            fcntl.lockf(self.fd, fcntl.LOCK_UN, 1, byte)

    def holder(self, byte: int) -> int | None:
        """The process that holds the byte: None = no other one, UNKNOWN = one that cannot be named."""
        held = self._conflict(byte, 1)
        if held is None:
            return None
        if (pid := held["pid"]) > 0:
            return pid
        named = self._conflict(_named(byte), 1 << _PID_BITS)
        return UNKNOWN if named is None else named["start"] - _named(byte)

    def any_holder(self, start: int, end: int) -> int | None:
        """A process that holds one of the bytes from `start` up to `end`, as `holder` names it."""
        held = self._conflict(start, end - start)
        return None if held is None else self.holder(max(start, held["start"]))

    def held_as_posix(self, byte: int) -> bool:
        """Another process holds the byte by a lock that it can lose while it lives."""
        held = self._conflict(byte, 1)
        return held is not None and held["pid"] > 0

    def _conflict(self, start: int, length: int) -> dict[str, int] | None:
        """A lock of somebody else on that range."""
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


def _named(byte: int) -> int:
    return _HOLDERS + (byte << _PID_BITS)


def _has_ofd(fd: int) -> bool:
    if sys.platform != "linux":
        return False
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _packed(fcntl.F_WRLCK, 0))
    except OSError:  # before Linux 3.15, or a kernel that only resembles it
        return False
    return True
