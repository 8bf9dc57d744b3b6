"""Keys of a body that its model does not have: refused where the request acts on what is there, named in the
log where newer clients may send them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable

from pydantic_core import PydanticCustomError

logger = logging.getLogger(__name__)

MAX_NAMED = 100
"""Keys that one process names in its log, each once."""
_LONGEST = 64
_IN_ONE_ANSWER = 5
_named = set[tuple[str, str]]()


def refuse(unknown: Iterable[object], known: Collection[str]) -> None:
    """Raises PydanticCustomError where a key is unknown: it may be a filter, without which the request would
    act on more than was meant."""
    keys = [f"{key!s:.{_LONGEST}}" for key in unknown]
    if keys:
        raise PydanticCustomError(
            "unknown_key",
            "unknown: {keys}; known: {known}. Nothing was done",
            {"keys": ", ".join(map(repr, keys[:_IN_ONE_ANSWER])), "known": ", ".join(known) or "none"},
        )


def name_in_log(body: str, unknown: Iterable[object]) -> None:
    """`body`: the name of its model."""
    for key in unknown:
        seen = (body, str(key)[:_LONGEST])
        if seen in _named or len(_named) >= MAX_NAMED:
            continue
        _named.add(seen)
        last = "; further unknown keys are not named" if len(_named) == MAX_NAMED else ""
        logger.warning("Ignored the key %r of a request, which %s does not have%s", seen[1], body, last)
