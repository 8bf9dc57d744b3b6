"""Which files have changed: for a server that is to run what its developer has just written."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

logger = logging.getLogger("coordinator.serve")


async def changes(folders: list[Path]) -> AsyncIterator[str]:
    """The name of a Python file below `folders` whenever some have changed. Ends where the system does not
    let itself be watched."""
    import watchfiles  # when the workers are up: their start is what is waited for

    watch = cast("Callable[..., AsyncIterator[set[tuple[object, str]]]]", cast("Any", watchfiles).awatch)
    try:
        async for found in watch(*folders, watch_filter=watchfiles.PythonFilter()):
            _, first = min(found, key=lambda one: one[1])
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            yield f"{_short(Path(first))}{more}"
    except OSError as error:
        logger.warning("files cannot be watched, so nothing is reloaded: %s", error)


def _short(path: Path) -> Path:
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path
