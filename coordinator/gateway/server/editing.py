"""Watches source files for edits, so that a development server restarts with the new code.

The watch runs in a worker, which has already imported most of what it needs, and in a thread, because code
under development may block the event loop for ever.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

logger = logging.getLogger("coordinator.serve")

_GRAPHS = "/langgraph.json"

OnChange = Callable[[str], object]


def watch(folders: Sequence[str], on_change: OnChange) -> None:
    """Calls `on_change`, from a daemon thread, with the path of each Python file or langgraph.json below
    `folders` that is edited after this call."""
    threading.Thread(target=_watch, args=(folders, on_change), name="file-watch", daemon=True).start()


def _watch(folders: Sequence[str], on_change: OnChange) -> None:
    try:
        import watchfiles  # noqa: PLC0415 - the import is slow, and this thread delays nothing

        # Any: the stub of watchfiles.watch is partially unknown.
        changes = cast("Callable[..., Iterator[set[tuple[object, str]]]]", cast("Any", watchfiles).watch)
        is_python = cast("Callable[[object, str], bool]", watchfiles.PythonFilter())

        def is_source(change: object, path: str) -> bool:
            return is_python(change, path) or path.endswith(_GRAPHS)

        for edits in changes(*folders, watch_filter=is_source, raise_interrupt=False):
            first = min(path for _, path in edits)
            on_change(f"{_short(first)} and {len(edits) - 1} more" if len(edits) > 1 else _short(first))
    except (ImportError, OSError) as error:
        logger.warning("files cannot be watched: %s; edits have no effect until SIGHUP restarts", error)


def _short(path: str) -> str:
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return path
