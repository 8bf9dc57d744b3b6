"""A program that has imported what others need, and becomes any of them by fork: tens of milliseconds each
instead of a second for an interpreter and its imports. The test's side is `tests.support.forked`.

    python -m tests.support.forkserver DESCRIPTOR MODULE...

For each byte that arrives at the socket DESCRIPTOR with the end of another one, the channel, it forks. The
fork reads from its channel what to become, one line of JSON, and ends as every interpreter does: exit
handlers, flushed streams, its own status. The server writes to the channel the process id and, when that is
over, the status.
"""

from __future__ import annotations

import fcntl
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
from contextlib import suppress
from typing import Any, NoReturn

MOST_DESCRIPTORS = 16
_OUT_OF_THE_WAY = 512
"""Where received descriptors wait until those that they replace are closed."""


def main() -> None:
    requests = socket.socket(fileno=int(sys.argv[1]))
    for module in sys.argv[2:]:
        importlib.import_module(module)
    _save_coverage()
    gc.collect()
    gc.freeze()  # what is imported is never garbage: a fork need not look at it, nor copy it to do so
    if (channel := _serve(requests)) is not None:
        _become(channel)


def _save_coverage() -> None:
    """What the imports ran is written once, and not again by every fork."""
    if "coverage" in sys.modules:
        from coverage import Coverage

        if (measured := Coverage.current()) is not None:
            measured.save()


def _serve(requests: socket.socket) -> socket.socket | None:
    """Returns the channel in every fork, and None in the server when the socket of requests is closed."""
    woken, waker = socket.socketpair()
    waker.setblocking(False)
    signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, _woken)
    channels: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([requests, woken], [], [])
        if woken in ready:
            woken.recv(4096)
            _reap(channels)
        if requests not in ready:
            continue
        request, (*received,), _, _ = socket.recv_fds(requests, 1, 1)
        if not request:
            return None
        channel = socket.socket(fileno=received[0])
        if (pid := os.fork()) == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for mine in (requests, woken, waker, *channels.values()):
                mine.close()
            return channel
        channels[pid] = channel
        channel.send(b"%d\n" % pid)


def _woken(number: int, frame: object) -> None:
    """A handler has to be there for the descriptor to be written to."""


def _reap(channels: dict[int, socket.socket]) -> None:
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0] != 0:
            pid, status = ended
            with channels.pop(pid) as channel, suppress(OSError):
                channel.send(b"%d\n" % os.waitstatus_to_exitcode(status))


def _become(channel: socket.socket) -> NoReturn:
    order, received = _read(channel)
    channel.close()
    waiting = [fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, _OUT_OF_THE_WAY) for one in received]
    for one in received:
        os.close(one)
    for one, wanted in zip(waiting, order["descriptors"], strict=True):
        os.dup2(one, wanted)
        os.close(one)
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["environ"])
    sys.path[0] = order["path"]
    sys.argv = order["argv"]
    module, _, function = order["target"].partition(":")
    sys.exit(getattr(importlib.import_module(module), function)())


def _read(channel: socket.socket) -> tuple[dict[str, Any], list[int]]:
    text, received, _, _ = socket.recv_fds(channel, 1 << 16, MOST_DESCRIPTORS)
    while not text.endswith(b"\n"):
        text += channel.recv(1 << 16)
    return json.loads(text), received


if __name__ == "__main__":
    main()
