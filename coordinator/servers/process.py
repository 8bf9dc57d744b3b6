"""What the process of every server needs: a free port, and an end together with its parent."""

from __future__ import annotations

import ctypes
import random
import signal
import socket
import sys
from abc import ABC, abstractmethod
from contextlib import suppress
from types import TracebackType
from typing import Self


class ServerError(RuntimeError):
    """There is no server to start, or it does not answer."""


class ServerProcess(ABC):
    """A server that runs within the block of a `with` statement."""

    @abstractmethod
    def start(self) -> None:
        """Returns when the server answers. Raises ServerError."""

    @abstractmethod
    def close(self) -> None:
        """Ends the server and removes its files. Idempotent."""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def free_port() -> int:
    """Below the range from which outgoing connections get theirs: there, a client that retries a closed
    port would sooner or later be given it, and connect to itself. Raises ServerError."""
    for _ in range(100):
        port = random.randint(20_000, 30_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise ServerError("no port is free between 20000 and 30000 on 127.0.0.1")


_libc: ctypes.CDLL | None = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with_parent(number: signal.Signals = signal.SIGKILL) -> None:
    """Called in the child: also when the parent is killed by SIGKILL, the child gets `number` (Linux). The
    parent is the *thread* that starts it."""
    if _libc is not None:
        _libc.prctl(1, number)  # PR_SET_PDEATHSIG
