"""Which files have been edited: for a server that is to run what its developer has just written.

In the worker, for it has loaded the most of what this needs; in a thread, for code that is being written may
well keep the event loop busy for ever.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

logger = logging.getLogger("coordinator.serve")

Tell = Callable[[str], object]


def watch(folders: Sequence[str], tell: Tell) -> None:
    """`tell` which Python file below `folders` has changed, from now on."""
    threading.Thread(target=_watch, args=(folders, tell), name="file-watch", daemon=True).start()


def _watch(folders: Sequence[str], tell: Tell) -> None:
    try:
        import watchfiles  # noqa: PLC0415 - in this thread: nobody waits for it

        changes = cast("Callable[..., Iterator[set[tuple[object, str]]]]", cast("Any", watchfiles).watch)
        for found in changes(*folders, watch_filter=watchfiles.PythonFilter(), raise_interrupt=False):
            first = min(path for _, path in found)
            tell(f"{_short(first)} and {len(found) - 1} more" if len(found) > 1 else _short(first))
    except (ImportError, OSError) as error:
        logger.warning("edits go unnoticed, SIGHUP restarts: files cannot be watched: %s", error)


def _short(path: str) -> str:
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return path
