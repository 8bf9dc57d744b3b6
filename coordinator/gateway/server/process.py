"""A worker as its supervisor sees it: a process, its descriptor for the port, and the line to it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from coordinator.gateway.server.channel import Orders, Ready, as_known
from coordinator.gateway.server.failures import FAILED, CannotServe
from coordinator.gateway.server.spawning import Spawned

UNKNOWN = 255
"""For an exit status."""

START_LIMIT = 60.0
"""Seconds within which a worker has to listen, its assistants imported."""


class WorkerProcess:
    """One incarnation. `ended` is done when the process is gone, with its exit status."""

    def __init__(
        self, slot: int, spawned: Spawned, lines: asyncio.StreamReader, close: Callable[[], None]
    ) -> None:
        self.slot, self.pid, self._line = slot, spawned.pid, spawned.line
        self._lines = lines
        self._born = asyncio.get_running_loop().time()
        self.about: Ready | None = None
        self.ended = _end_of(self.pid)
        self.ended.add_done_callback(lambda _: close())

    @classmethod
    async def of(cls, slot: int, spawned: Spawned) -> WorkerProcess:
        """It waits for its orders, and imports meanwhile what it needs."""
        reader, writer = await asyncio.open_connection(sock=spawned.line)
        return cls(slot, spawned, reader, writer.close)

    def order(self, orders: Orders, port: socket.socket) -> None:
        """Once."""
        with suppress(ConnectionError):  # it is gone already, which `ready` tells
            socket.send_fds(self._line, [orders.line()], [port.fileno()])

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
            self.about = as_known(Ready, said["ready"])
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
        if not self.ended.done():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

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


def _end_of(pid: int) -> asyncio.Future[int]:
    """The exit status of a child, which may have been started by whoever was this process before: asyncio
    watches only its own. Negative for a signal."""
    loop = asyncio.get_running_loop()
    ended = loop.create_future()

    def wait() -> None:
        try:
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        except ChildProcessError:  # somebody else has looked
            status = UNKNOWN
        with suppress(RuntimeError):  # the loop has ended before
            loop.call_soon_threadsafe(ended.set_result, status)

    threading.Thread(target=wait, name=f"wait-{pid}", daemon=True).start()
    return ended


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
