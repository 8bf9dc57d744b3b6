"""The command line `coordinator`. Large packages are imported only by the commands that need them."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

_REQUIRED = ("typer", "rich")
SERVER_NEEDS = ("fastapi", "uvicorn")


def main() -> int:
    """Run the command line with `sys.argv`. Returns the exit code."""
    missing = [name for name in _REQUIRED if find_spec(name) is None]
    if missing:
        print(
            f"coordinator: {' and '.join(missing)} not installed; install the command line with:"
            " pip install 'run-coordinator[cli]'",
            file=sys.stderr,
        )
        return 2
    if _starts_server(sys.argv[1:]):
        from coordinator.gateway.server.spawning import spawn_ahead

        spawn_ahead()
    from coordinator.cli.app import run

    return run(sys.argv[1:])


def _starts_server(arguments: list[str]) -> bool:
    """True if these arguments probably start a server. A worker spawned by mistake exits by itself."""
    return (
        arguments[:1] in (["serve"], ["dev"])
        and not {"--help", "-h"}.intersection(arguments)
        and hasattr(os, "posix_spawn")
        and all(find_spec(name) is not None for name in SERVER_NEEDS)
    )
