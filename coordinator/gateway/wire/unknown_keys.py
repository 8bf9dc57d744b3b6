"""Unknown keys of a request body: refused if the request modifies existing data, else ignored and logged,
because newer clients may send them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable

from pydantic_core import PydanticCustomError

logger = logging.getLogger(__name__)

MAX_LOGGED = 100
"""Number of keys that one process logs, each once."""
_MAX_KEY_LENGTH = 64
_MAX_LISTED = 5
_logged = set[tuple[str, str]]()


def refuse(unknown: Iterable[object], known: Collection[str]) -> None:
    """Raises PydanticCustomError if there are unknown keys. An unknown key may be a filter, without which the
    request would modify more than its client intends."""
    keys = [f"{key!s:.{_MAX_KEY_LENGTH}}" for key in unknown]
    if keys:
        raise PydanticCustomError(
            "unknown_key",
            "unknown: {keys}; known: {known}. Nothing was done",
            {"keys": ", ".join(map(repr, keys[:_MAX_LISTED])), "known": ", ".join(known) or "none"},
        )


def log_ignored(body: str, unknown: Iterable[object]) -> None:
    """Logs ignored keys. `body` is the name of the model."""
    for key in unknown:
        entry = (body, str(key)[:_MAX_KEY_LENGTH])
        if entry in _logged or len(_logged) >= MAX_LOGGED:
            continue
        _logged.add(entry)
        suffix = "; further unknown keys are not logged" if len(_logged) == MAX_LOGGED else ""
        logger.warning("ignored the unknown key %r of a request of type %s%s", entry[1], body, suffix)
