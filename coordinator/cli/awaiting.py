"""From a coroutine to an exit code."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import typer


def finish(command: Coroutine[Any, Any, int]) -> int:
    """Run the command to its end."""
    import asyncio

    try:
        return asyncio.run(command)
    except (KeyboardInterrupt, asyncio.CancelledError):  # the latter by a signal that a command handles
        raise typer.Abort from None
