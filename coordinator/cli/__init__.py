"""The command line: `coordinator`. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import sys
from importlib.util import find_spec

_NEEDED = ("typer", "rich")


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
    from coordinator.cli.app import run

    return run(sys.argv[1:])
