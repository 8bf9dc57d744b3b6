"""The supervisor process, started by `serve` and `dev`."""

from __future__ import annotations

import asyncio
import sys

from coordinator.cli.sentence import sentence
from coordinator.cli.serve.handover import options_from_environment
from coordinator.cli.serve.program import serve
from coordinator.gateway.server import logs
from coordinator.gateway.server.failures import CannotServe


def main() -> int:
    """Returns the exit code."""
    try:
        asyncio.run(serve(options_from_environment()))
    except CannotServe as error:
        logs.flush()
        print(f"coordinator: {sentence(error.message, error.hint)}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:  # before the signal handlers were installed
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
