"""Spawns a worker process with its channel, before its orders exist. This module imports nothing heavy.

The command line parses options for a while before a supervisor exists. The first worker does not wait for
that: it is spawned at once, and meanwhile imports, on another core, what every worker needs.
"""

from __future__ import annotations

import os
import socket
import sys
from typing import NamedTuple

_VARIABLE = "COORDINATOR_SPAWNED_WORKER"


class Spawned(NamedTuple):
    """A child of this process, which ends when the channel `line` is closed."""

    pid: int
    line: socket.socket


def spawn() -> Spawned:
    """Spawns a worker in a session of its own, so that Ctrl-C signals only the supervisor, which forwards it.
    Raises OSError."""
    parent_end, child_end = socket.socketpair()
    with child_end:
        child_end.set_inheritable(True)
        # -P: modules in the working folder must not shadow libraries.
        command = [sys.executable, "-P", "-m", "coordinator.gateway.server.worker", str(child_end.fileno())]
        stdin_from_null = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
        pid = os.posix_spawn(sys.executable, command, os.environ, file_actions=[stdin_from_null], setsid=True)
    return Spawned(pid, parent_end)


def spawn_ahead() -> None:
    """Spawns a worker and passes it, through the environment, to the supervisor that this process becomes by
    exec: the same process id with a fresh interpreter."""
    spawned = spawn()
    spawned.line.set_inheritable(True)
    os.environ[_VARIABLE] = f"{spawned.pid} {spawned.line.detach()}"


def spawned_ahead() -> Spawned | None:
    """Returns the worker that `spawn_ahead` spawned, once; None if there is none or at a second call."""
    value = os.environ.pop(_VARIABLE, None)
    if value is None:
        return None
    pid, descriptor = map(int, value.split())
    line = socket.socket(fileno=descriptor)
    line.set_inheritable(False)
    return Spawned(pid, line)
