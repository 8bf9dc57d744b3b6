"""Processes under test that are forked from one that has their imports behind it: `tests.support.forkserver`.

For tests of what a program does. Where its start is what is tested, or what it imports, start an interpreter.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]


class Program(NamedTuple):
    """`target` is `module:function`; what that returns or exits with is the status."""

    target: str
    preload: tuple[str, ...]
    """What it imports. Programs with the same come from the same server."""
    name: str = "-c"
    """Its `sys.argv[0]`."""
    path: str = ""
    """Its `sys.path[0]`; empty is the working directory."""


_COMMANDS = (
    "cancel", "cancel_many", "columns", "copying", "crons", "database", "explain", "filters", "follow", "ids",
    "prune", "reconcile", "runs", "screen", "servers", "threads", "webhooks", "workers",
)  # fmt: skip
RUNS = (
    "coordinator.bootstrap",
    "coordinator.cli.app",
    "coordinator.cli.serve.folder",
    *(f"coordinator.cli.{name}" for name in _COMMANDS),
    "redis.asyncio",
    "rich.console",
    "rich.table",
    "stores.postgres",
    "stores.sqlite",
    "tests.support.worker_process",
)
"""For programs that execute or read runs without serving HTTP."""

COMMAND_LINE = Program("coordinator.cli:main", preload=RUNS)


class ForkedProcess:
    """What `asyncio.subprocess.Process` is to one that was started. Made by `fork`."""

    def __init__(
        self,
        pid: int,
        ended: asyncio.Task[int],
        *,
        stdin: asyncio.StreamWriter,
        stdout: asyncio.StreamReader,
        stderr: asyncio.StreamReader,
    ) -> None:
        self.pid, self.stdin, self.stdout, self.stderr = pid, stdin, stdout, stderr
        self._ended = ended

    @property
    def returncode(self) -> int | None:
        return self._ended.result() if self._ended.done() else None

    def send_signal(self, number: signal.Signals) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    async def communicate(self) -> tuple[bytes, bytes]:
        """Closes stdin and returns all of stdout and stderr when the process has ended."""
        self.stdin.close()
        out, err, _ = await asyncio.gather(self.stdout.read(), self.stderr.read(), self.wait())
        return out, err


async def fork(
    program: Program,
    *arguments: str,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    pass_fds: Iterable[int] = (),
    limit: int = 1 << 16,
    quiet: bool = False,
) -> ForkedProcess:
    """All three of its streams are pipes; `limit` (bytes) is the longest line that can be read from them.
    `quiet` discards its stderr."""
    with ExitStack() as stack:
        ours, theirs = socket.socketpair()
        stack.enter_context(theirs)
        read, write = zip(*(os.pipe() for _ in range(3)), strict=True)
        given = {0: read[0], 1: write[1], 2: write[2]} | {one: one for one in pass_fds}
        for one in (read[0], write[1], write[2]):
            stack.callback(os.close, one)
        if quiet:
            given[2] = os.open(os.devnull, os.O_WRONLY)
            stack.callback(os.close, given[2])
        order = {
            "target": program.target,
            "argv": [program.name, *arguments],
            "path": program.path,
            "cwd": str(cwd or Path.cwd()),
            "environ": dict(os.environ if env is None else env),
            "descriptors": list(given),
        }
        text = json.dumps(order).encode() + b"\n"
        sent = socket.send_fds(ours, [text[:4096]], list(given.values()))
        ours.sendall(text[sent:])
        _server(program.preload).fork(theirs)
    channel, closing = await asyncio.open_connection(sock=ours)
    return ForkedProcess(
        int(await channel.readline()),
        asyncio.create_task(_end(channel, closing)),
        stdin=await _writer(write[0]),
        stdout=await _reader(read[1], limit),
        stderr=await _reader(read[2], limit),
    )


async def _end(channel: asyncio.StreamReader, closing: asyncio.StreamWriter) -> int:
    status = int(await channel.readline())
    closing.close()
    return status


async def _reader(descriptor: int, limit: int) -> asyncio.StreamReader:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=limit)
    pipe = os.fdopen(descriptor, "rb", 0)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    return reader


async def _writer(descriptor: int) -> asyncio.StreamWriter:
    loop = asyncio.get_running_loop()
    pipe = os.fdopen(descriptor, "wb", 0)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, pipe)
    return asyncio.StreamWriter(transport, protocol, None, loop)


class _Server:
    def __init__(self, modules: tuple[str, ...]) -> None:
        self._requests, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.forkserver", str(theirs.fileno()), *modules],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                cwd=ROOT,
            )

    def fork(self, channel: socket.socket) -> None:
        socket.send_fds(self._requests, [b"."], [channel.fileno()])

    def close(self) -> None:
        self._requests.close()
        self._process.wait()


_servers: dict[tuple[str, ...], _Server] = {}


def _server(modules: tuple[str, ...]) -> _Server:
    if modules not in _servers:
        _servers[modules] = _Server(modules)
    return _servers[modules]


def close_servers() -> None:
    """Idempotent. Forked processes continue."""
    while _servers:
        _servers.popitem()[1].close()
