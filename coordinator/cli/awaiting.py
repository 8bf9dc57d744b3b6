"""Run the coroutine of a command and return its exit code."""

from __future__ import annotations

from collections.abc import Coroutine

import typer


def finish(command: Coroutine[object, object, int]) -> int:
    """Run the command. Raises typer.Abort if it is interrupted."""
    import asyncio

    try:
        return asyncio.run(command)
    except (KeyboardInterrupt, asyncio.CancelledError):  # CancelledError: a command that handles signals
        raise typer.Abort from None
