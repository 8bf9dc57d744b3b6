"""The command line: `coordinator`. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

_NEEDED = ("typer", "rich")
SERVER_NEEDS = ("fastapi", "uvicorn")


def main() -> int:
    """Run the command line on `sys.argv`; answer the exit code."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        print(
            f"coordinator: {' and '.join(missing)} not installed; install the command line with:"
            " pip install 'run-coordinator[cli]'",
            file=sys.stderr,
        )
        return 2
    if _serves(sys.argv[1:]):
        from coordinator.gateway.server.spawning import spawn_ahead

        spawn_ahead()
    from coordinator.cli.app import run

    return run(sys.argv[1:])


def _serves(arguments: list[str]) -> bool:
    """Very likely: a worker that was spawned in vain ends by itself."""
    return (
        arguments[:1] in (["serve"], ["dev"])
        and not {"--help", "-h"}.intersection(arguments)
        and hasattr(os, "posix_spawn")
        and all(find_spec(name) is not None for name in SERVER_NEEDS)
    )
