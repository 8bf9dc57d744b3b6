"""A real PgBouncer, by default in transaction mode, in front of the tests' PostgreSQL."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from socket import create_connection
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import pytest

from coordinator.servers.postgres import unprivileged_user
from coordinator.servers.process import ServerError, die_with_parent, free_port
from stores.postgres import Options, PostgresStore
from tests.support.postgres import Database

NOT_RUN = "NOT RUN: needs PgBouncer: install it (Debian: apt install pgbouncer)"
SHARED = 3
"""Connections to the server, for all clients of a role."""

_CONFIG = """
[databases]
* = host={host} port={port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {folder}/users
auth_user = {user}
auth_dbname = {database}
pool_mode = {mode}
default_pool_size = {size}
max_client_conn = 500
max_prepared_statements = 0
{others}
logfile = {folder}/log
pidfile = {folder}/pid
"""


def find_pgbouncer() -> str | None:
    """Searches PATH and the folders for system programs, where distributions put it."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


class Pooler:
    """One process. `through(url)`: that role's way to the server."""

    def __init__(self, program: str, folder: Path, port: int, database: Database) -> None:
        self._program, self._folder, self._port, self._database = program, folder, port, database
        self._process: subprocess.Popen[bytes] | None = None

    def through(self, url: str) -> str:
        parts = urlsplit(url)
        who = parts.netloc.rpartition("@")[0]
        return urlunsplit(parts._replace(netloc=f"{who}@127.0.0.1:{self._port}"))

    def url_of(self, store: PostgresStore) -> str:
        """Of one that `store` has made."""
        return self.through(self._database.as_role(store.schema))

    @asynccontextmanager
    async def store(self, **options: Any) -> AsyncGenerator[PostgresStore]:
        """An open store on a schema of its own, as `Database.store` has it."""
        clock = options.pop("clock", None)
        async with self._database.worker() as (url, name):
            fields: dict[str, Any] = {"statement_cache": 0, **options}
            given = Options(schema=name, **fields)
            store = PostgresStore(self.through(url), given, migrate=False, clock=clock)
            try:
                await store.open()
                yield store
            finally:
                await store.aclose()

    def start(self) -> None:
        """Raises ServerError."""
        self._process = subprocess.Popen[bytes](
            [self._program, "--quiet", str(self._folder / "ini")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            preexec_fn=die_with_parent,
            **_owner(self._folder),
        )
        until = time.monotonic() + 10
        while time.monotonic() < until and self._process.poll() is None:
            with suppress(OSError), create_connection(("127.0.0.1", self._port), timeout=1):
                return
            time.sleep(0.01)
        log = self._folder / "log"
        raise ServerError(f"PgBouncer does not start: {log.read_text()[-2000:] if log.is_file() else ''}")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@contextmanager
def pooler(database: Database, *, size: int = SHARED, **settings: str) -> Generator[Pooler]:
    """`settings` are PgBouncer's. It keeps track of no prepared statements, as versions before 1.21. Skips
    loudly where there is no PgBouncer."""
    program = find_pgbouncer()
    if program is None:
        pytest.skip(NOT_RUN)
    with tempfile.TemporaryDirectory(prefix="rc-pgbouncer-", ignore_cleanup_errors=True) as name:
        folder, port = Path(name), free_port()
        _configure(folder, port, database, size=size, settings=settings)
        made = Pooler(program, folder, port, database)
        try:
            made.start()
            yield made
        finally:
            made.kill()


def _configure(folder: Path, port: int, database: Database, *, size: int, settings: dict[str, str]) -> None:
    server = urlsplit(database.url)
    user, password = server.username or "postgres", unquote(server.password or "")
    config = _CONFIG.format(
        host=server.hostname,
        port=server.port or 5432,
        own=port,
        folder=folder,
        user=user,
        database=server.path.strip("/"),
        size=size,
        mode=settings.get("pool_mode", "transaction"),
        others="\n".join(f"{name} = {value}" for name, value in settings.items() if name != "pool_mode"),
    )
    (folder / "users").write_text(f'"{user}" "{password}"\n')
    (folder / "ini").write_text(config)


def _owner(folder: Path) -> dict[str, Any]:
    """It refuses to be root, as PostgreSQL does."""
    if os.geteuid() != 0:
        return {}
    user = unprivileged_user()
    for path in (folder, *folder.iterdir()):
        os.chown(path, user, -1)
    return {"user": user, "group": pwd.getpwuid(user).pw_gid, "extra_groups": []}
