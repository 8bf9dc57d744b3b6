"""The channel between a supervisor and one worker: JSON, one object per line, over a socket pair.

    to the worker     its orders, once, with the descriptor of its bound socket
    from the worker   {"ready": {…}} when it listens, or {"failed": {message, hint, code}};
                      {"changed": "file"} when its code was edited

End of file is a message as well: a worker shuts down when its supervisor is dead. After an upgrade the
supervisor is older than the workers that it starts, so each end ignores fields that it does not know.
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
from typing import Literal, TypeVar

from coordinator.gateway.server.failures import CannotServe
from stores.json_values import JsonObject

_READ_BYTES = 65536


@dataclass(frozen=True, slots=True)
class Orders:
    """Configuration of one worker. It is sent over the channel and not passed as arguments, because every
    user of the machine can read arguments, and URLs contain passwords. `settings` and `gateway` are the
    fields of `Settings` and `GatewaySettings` that options have set; the worker takes the rest from its
    environment."""

    slot: int
    assistants: str | None = None
    log_format: Literal["text", "json"] = "text"
    settings: JsonObject = field(default_factory=JsonObject)
    gateway: JsonObject = field(default_factory=JsonObject)
    watched: list[str] = field(default_factory=list[str])
    """Folders. The worker reports changes of Python files below them."""
    counts: str | None = None
    """The folder in which workers share their metrics. It is not in the environment, because the first worker
    is spawned before the folder is created."""
    app: str | None = None
    """MODULE:OBJECT of the user's ASGI app, served instead of a gateway. `assistants`, `settings` and
    `gateway` then have no effect."""

    def line(self) -> bytes:
        return _encode_line(asdict(self))


@dataclass(frozen=True, slots=True)
class Ready:
    """Description of a worker, sent when it listens. `grace` is in seconds."""

    epoch: int
    grace: float
    store: str = ""
    redis: str | None = None
    notified: bool = False
    """Hints between workers are sent with NOTIFY of PostgreSQL, without Redis."""
    keys: bool = False
    access: str = ""
    """Which clients may call, as text for the banner."""
    assistants: Sequence[str] = ()
    example: JsonObject = field(default_factory=JsonObject)
    """Body of a request that one of `assistants` can run; without `input` if none is known to be valid."""
    pages: Sequence[str] = ()
    """Origins of the web pages that may call."""
    page: bool = False
    """The gateway serves a web page."""
    admit_only: bool = False
    """The worker executes no runs."""


Fields = TypeVar("Fields", Orders, Ready)


def as_known(kind: type[Fields], document: JsonObject) -> Fields:
    """Builds `kind` from `document` and ignores the fields that only a newer version knows."""
    return kind(**{each.name: document[each.name] for each in fields(kind) if each.name in document})


class WorkerEnd:
    """The worker's end of the channel. `orders` is called first."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.set_inheritable(False)

    def orders(self) -> tuple[Orders, socket.socket] | None:
        """Blocks until the orders arrive. Returns them with the bound socket, or None if the supervisor died
        before it sent them."""
        line, descriptors, _, _ = socket.recv_fds(self._socket, _READ_BYTES, 1)
        while line and not line.endswith(b"\n"):
            line += self._socket.recv(_READ_BYTES)
        if not line:
            return None
        port = socket.socket(fileno=descriptors[0])
        port.set_inheritable(False)
        return as_known(Orders, json.loads(line)), port

    def ready(self, ready: Ready) -> None:
        self._send({"ready": asdict(ready)})

    def changed(self, path: str) -> None:
        """Reports an edited file. May be called from any thread, after `ready`."""
        self._send({"changed": path})

    def failed(self, why: CannotServe) -> None:
        self._send({"failed": why.document()})

    def _send(self, message: JsonObject) -> None:
        self._socket.sendall(_encode_line(message))

    def watch(self, on_lost: Callable[[], object]) -> None:
        """Calls `on_lost` from a daemon thread when the supervisor has died."""
        threading.Thread(
            target=self._await_end, args=(on_lost,), name="supervisor-watch", daemon=True
        ).start()

    def _await_end(self, on_lost: Callable[[], object]) -> None:
        try:
            while self._socket.recv(4096):
                """A supervisor sends nothing after the orders."""
        except OSError:
            """Equivalent to end of file."""
        on_lost()


def leave_at_once(within: float) -> None:
    """Ends this process as two SIGTERM of its supervisor would, and by force after `within` (s). Runs in a
    thread, because the event loop may be blocked."""
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)  # two pending signals of one number would be merged into one
    time.sleep(within)
    os._exit(128 + signal.SIGTERM)


def _encode_line(message: JsonObject) -> bytes:
    return json.dumps(message).encode() + b"\n"
