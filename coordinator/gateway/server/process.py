"""A worker as its supervisor manages it: a process and the channel to it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from coordinator.gateway.server.channel import Orders, Ready, as_known
from coordinator.gateway.server.failures import FAILED, CannotServe
from coordinator.gateway.server.spawning import Spawned
from stores.json_values import JsonObject

UNKNOWN = 255
"""Stands for an exit status that was not observed."""

START_LIMIT = 60.0
"""Seconds within which a worker must listen, which includes importing its assistants."""


class WorkerProcess:
    """One worker process. `ended` completes with the exit status when the process has ended.

    `description` is set once the worker listens."""

    def __init__(
        self, slot: int, spawned: Spawned, lines: asyncio.StreamReader, close: Callable[[], None]
    ) -> None:
        self.slot, self.pid, self._line = slot, spawned.pid, spawned.line
        self._lines = lines
        self._born = asyncio.get_running_loop().time()
        self.description: Ready | None = None
        self.ended = _exit_status_of(self.pid)
        self.ended.add_done_callback(lambda _: close())

    @classmethod
    async def connect(cls, slot: int, spawned: Spawned) -> WorkerProcess:
        """Connects to the channel of a spawned worker, which waits for its orders."""
        reader, writer = await asyncio.open_connection(sock=spawned.line)
        return cls(slot, spawned, reader, writer.close)

    def order(self, orders: Orders, port: socket.socket) -> None:
        """Sends the orders and the bound socket. Called once."""
        with suppress(ConnectionError):  # the process has ended already; `ready` reports it
            socket.send_fds(self._line, [orders.line()], [port.fileno()])

    @property
    def seconds_served(self) -> float:
        """Seconds since the worker was started; 0 if it has never listened."""
        return asyncio.get_running_loop().time() - self._born if self.description is not None else 0.0

    @property
    def grace(self) -> float:
        return self.description.grace if self.description is not None else 0.0

    @property
    def name(self) -> str:
        return f"worker {self.slot + 1} (pid {self.pid})"

    async def ready(self) -> Ready:
        """Waits until the worker listens, at most `START_LIMIT`. Raises CannotServe; the process has then
        ended."""
        line = b""
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(START_LIMIT):
                line = await self._lines.readline()
        message: JsonObject = json.loads(line or b"{}")
        if "ready" in message:
            self.description = as_known(Ready, message["ready"])
            return self.description
        self.kill()
        status = await self.ended
        if "failed" in message:
            raise CannotServe(**message["failed"])
        raise CannotServe(
            f"{self.name} {ending(status)} before it listened", "Its log lines are above", code=FAILED
        )

    async def next_change(self) -> str | None:
        """Waits for the next edit of a watched file. Returns its path, or None when the worker has ended.
        Called only after `ready`."""
        with suppress(ConnectionError):
            if line := await self._lines.readline():
                return str(json.loads(line)["changed"])
        return None

    def send_signal(self, number: signal.Signals) -> None:
        if not self.ended.done():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    async def terminate(self, within: float) -> None:
        """Sends SIGTERM, then SIGKILL after `within` (s), and waits for the end of the process."""
        self.send_signal(signal.SIGTERM)
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await asyncio.shield(self.ended)
        self.kill()
        await self.ended


def _exit_status_of(pid: int) -> asyncio.Future[int]:
    """Returns a future of the exit status of child `pid`, negative for a signal. A thread waits for it:
    asyncio watches only children that it has started, and the program before `exec` may have started it."""
    loop = asyncio.get_running_loop()
    ended = loop.create_future()

    def wait() -> None:
        try:
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        except ChildProcessError:  # other code has reaped the child
            status = UNKNOWN
        with suppress(RuntimeError):  # the event loop is closed
            loop.call_soon_threadsafe(ended.set_result, status)

    threading.Thread(target=wait, name=f"wait-{pid}", daemon=True).start()
    return ended


def ending(status: int) -> str:
    """Describes an exit status in a log line."""
    if status >= 0:
        return f"ended with {status}"
    with suppress(ValueError):
        return f"was ended by {signal.Signals(-status).name}"
    return f"was ended by signal {-status}"


def reap_children() -> None:
    """Resets SIGCHLD if the parent process ignored it; else children would have no exit status."""
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def has_terminal() -> bool:
    """Returns whether this process has a controlling terminal; False after its terminal was closed."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
