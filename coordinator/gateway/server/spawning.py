"""A worker's process and the line to it, before it is told what to do. Nothing heavy is imported here.

Whoever starts a server spends a while on options before there is a supervisor. The first worker does not wait
for that: it is spawned at once and imports meanwhile, on another core, what every worker needs.
"""

from __future__ import annotations

import os
import socket
import sys
from typing import NamedTuple

_VARIABLE = "COORDINATOR_SPAWNED_WORKER"


class Spawned(NamedTuple):
    """A child of this process. It ends when `line` is closed."""

    pid: int
    line: socket.socket


def spawn() -> Spawned:
    """In a session of its own: Ctrl-C is for the supervisor, which then tells its workers."""
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.set_inheritable(True)
        # -P: what lies in the working folder must not stand in for a library.
        command = [sys.executable, "-P", "-m", "coordinator.gateway.server.worker", str(theirs.fileno())]
        nothing = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
        pid = os.posix_spawn(sys.executable, command, os.environ, file_actions=[nothing], setsid=True)
    return Spawned(pid, ours)


def spawn_ahead() -> None:
    """For the supervisor that this process becomes: same process id, fresh interpreter."""
    spawned = spawn()
    spawned.line.set_inheritable(True)
    os.environ[_VARIABLE] = f"{spawned.pid} {spawned.line.detach()}"


def spawned_ahead() -> Spawned | None:
    """In the supervisor, once."""
    said = os.environ.pop(_VARIABLE, None)
    if said is None:
        return None
    pid, descriptor = map(int, said.split())
    line = socket.socket(fileno=descriptor)
    line.set_inheritable(False)
    return Spawned(pid, line)
