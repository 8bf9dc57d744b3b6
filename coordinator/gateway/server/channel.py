"""The line between a supervisor and one worker: JSON, one object a line, over a pair of sockets.

    to the worker     its orders, once, and with them the descriptor of its bound socket
    from the worker   {"ready": {…}} when it listens, or {"failed": {message, hint, code}};
                      {"changed": "file"} when its code was edited

Its end is news as well: a worker whose supervisor is gone leaves, however that went. Who replaces workers
after an upgrade is older than they are: what one end does not know of the other's words it leaves out.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeVar

from coordinator.gateway.server.failures import CannotServe

_LONGEST = 65536


@dataclass(frozen=True, slots=True)
class Orders:
    """What a worker is told. Over the line and not in its arguments, which everybody on the machine can
    read: URLs hold passwords. `settings`, `gateway`: fields of `Settings` and `GatewaySettings` that an
    option named; the worker takes the rest from its environment."""

    slot: int
    assistants: str | None = None
    log_format: Literal["text", "json"] = "text"
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    gateway: dict[str, Any] = field(default_factory=dict[str, Any])
    watched: list[str] = field(default_factory=list[str])
    """Folders: it tells when a Python file below them has changed."""
    counts: str | None = None
    """The folder that workers share their metrics in. The first worker is older than it."""
    app: str | None = None
    """MODULE:OBJECT, an app of the user's own in place of a gateway; then nothing else says what runs."""

    def line(self) -> bytes:
        return _line(asdict(self))


@dataclass(frozen=True, slots=True)
class Ready:
    """What a worker says of itself when it listens."""

    epoch: int
    grace: float
    store: str = ""
    redis: str | None = None
    notified: bool = False
    """Without Redis, hints travel between workers by NOTIFY of PostgreSQL."""
    keys: bool = False
    access: str = ""
    """Who may call, in words."""
    assistants: Sequence[str] = ()
    example: dict[str, Any] = field(default_factory=dict[str, Any])
    """Body of a request that one of them can run."""
    pages: Sequence[str] = ()
    """Origins of web pages that may call."""


Said = TypeVar("Said", Orders, Ready)


def as_known(kind: type[Said], said: dict[str, Any]) -> Said:
    """Without the fields of a newer program."""
    return kind(**{each.name: said[each.name] for each in fields(kind) if each.name in said})


class WorkerEnd:
    """A worker's end. `orders` first."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.set_inheritable(False)

    def orders(self) -> tuple[Orders, socket.socket] | None:
        """And the bound socket. None where the supervisor was gone before it came to that."""
        line, descriptors, _, _ = socket.recv_fds(self._socket, _LONGEST, 1)
        while line and not line.endswith(b"\n"):
            line += self._socket.recv(_LONGEST)
        if not line:
            return None
        port = socket.socket(fileno=descriptors[0])
        port.set_inheritable(False)
        return as_known(Orders, json.loads(line)), port

    def ready(self, about: Ready) -> None:
        self._say({"ready": asdict(about)})

    def changed(self, what: str) -> None:
        """From any thread, after `ready`."""
        self._say({"changed": what})

    def failed(self, why: CannotServe) -> None:
        self._say({"failed": why.document()})

    def _say(self, message: dict[str, Any]) -> None:
        self._socket.sendall(_line(message))

    def watch(self, lost: Callable[[], object]) -> None:
        """Call `lost`, from a thread of its own, when the supervisor is gone."""
        threading.Thread(target=self._wait, args=(lost,), name="supervisor-watch", daemon=True).start()

    def _wait(self, lost: Callable[[], object]) -> None:
        try:
            while self._socket.recv(4096):
                """Nothing more is said to a worker."""
        except OSError:
            """The same as an end."""
        lost()


def leave_at_once(within: float) -> None:
    """End this process as two signals of its supervisor would, in the end by force. From a thread: the
    event loop may be what does not turn."""
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)  # two signals of one number that wait together are one
    time.sleep(within)
    os._exit(128 + signal.SIGTERM)


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"
