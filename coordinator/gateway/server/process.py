"""A worker as its supervisor sees it: a process, its descriptor for the port, and the line to it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from coordinator.gateway.server.channel import Orders, Ready
from coordinator.gateway.server.failures import FAILED, CannotServe

START_LIMIT = 60.0
"""Seconds within which a worker has to listen, its assistants imported."""


class WorkerProcess:
    """One incarnation. `ended` is done when the process is gone, with its exit status."""

    def __init__(
        self, slot: int, process: Process, lines: asyncio.StreamReader, close: Callable[[], None]
    ) -> None:
        self.slot, self._process = slot, process
        self._lines, self._close = lines, close
        self._born = asyncio.get_running_loop().time()
        self.about: Ready | None = None
        self.ended = asyncio.create_task(self._wait())

    @classmethod
    async def spawn(cls, orders: Orders, port: socket.socket) -> WorkerProcess:
        """In a session of its own: Ctrl-C is for the supervisor, which then tells its workers."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # what lies in the working folder must not stand in for a library
                "-m",
                "coordinator.gateway.server.worker",
                str(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), port.fileno()),
                start_new_session=True,
            )
        reader, writer = await asyncio.open_connection(sock=ours)
        writer.write(replace(orders, listen=port.fileno()).line())
        return cls(orders.slot, process, reader, writer.close)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def served(self) -> float:
        """Seconds since it was started; 0 where it has never listened."""
        return asyncio.get_running_loop().time() - self._born if self.about is not None else 0.0

    @property
    def grace(self) -> float:
        return self.about.grace if self.about is not None else 0.0

    @property
    def name(self) -> str:
        return f"worker {self.slot + 1} (pid {self.pid})"

    async def ready(self) -> Ready:
        """Until it listens. Raises CannotServe, and then the process is gone."""
        line = b""
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(START_LIMIT):
                line = await self._lines.readline()
        said: dict[str, Any] = json.loads(line or b"{}")
        if "ready" in said:
            self.about = Ready(**said["ready"])
            return self.about
        self.kill()
        status = await self.ended
        if "failed" in said:
            raise CannotServe(**said["failed"])
        raise CannotServe(
            f"{self.name} {ending(status)} before it listened", "What it said before is above", code=FAILED
        )

    async def change(self) -> str | None:
        """Once it is ready: which of its files was edited next. None when it is gone."""
        with suppress(ConnectionError):
            if line := await self._lines.readline():
                return str(json.loads(line)["changed"])
        return None

    def tell(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    def kill(self) -> None:
        self.tell(signal.SIGKILL)

    async def leave(self, within: float) -> None:
        """SIGTERM, and after `within` s SIGKILL."""
        self.tell(signal.SIGTERM)
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await asyncio.shield(self.ended)
        self.kill()
        await self.ended

    async def _wait(self) -> int:
        status = await self._process.wait()
        self._close()
        return status


def ending(status: int) -> str:
    """An exit status in words."""
    if status >= 0:
        return f"ended with {status}"
    with suppress(ValueError):
        return f"was ended by {signal.Signals(-status).name}"
    return f"was ended by signal {-status}"


def reap_children() -> None:
    """Under a parent that ignores SIGCHLD, children would vanish without an exit status."""
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def has_terminal() -> bool:
    """A process whose terminal was closed has none any more."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
