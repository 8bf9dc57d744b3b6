"""The supervisor's process. Started by `serve` and `dev`, never by hand."""

from __future__ import annotations

import asyncio
import sys

from coordinator.cli.sentence import sentence
from coordinator.cli.serve.asked import take_over
from coordinator.cli.serve.program import serve
from coordinator.gateway.server.failures import CannotServe


def main() -> int:
    """Answers the exit code."""
    try:
        asyncio.run(serve(take_over()))
    except CannotServe as error:
        print(f"coordinator: {sentence(error.message, error.hint)}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:  # before anybody handled it
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
