"""How large values are as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from coordinator.schemas import Json
from stores.sql.codec import dumps

_LOOKED_AT = 20_000
"""Values; where there are more they are written to know."""
_ESCAPED = 12
"""Bytes that a character takes at most."""
_NUMBER = 32


def exceeds(value: Json, limit: int) -> int | None:
    """Its bytes where it has more than `limit`, else None; also for what is no JSON, which is its writer's to
    tell."""
    if not _may_exceed(value, limit):
        return None
    try:
        size = len(dumps(value))
    except (TypeError, ValueError):
        return None
    return size if size > limit else None


def _may_exceed(value: Json, limit: int) -> bool:
    """Without writing it, for most values are small."""
    left, todo = limit, list[object]([value])
    for looked_at, one in enumerate(todo):  # which grows meanwhile
        left -= _NUMBER
        if isinstance(one, str):
            left -= _ESCAPED * len(one)
        elif isinstance(one, dict):
            items = cast("dict[object, object]", one)
            todo += items.keys()
            todo += items.values()
        elif isinstance(one, (list, tuple)):
            todo += cast("Iterable[object]", one)
        elif isinstance(one, int):
            left -= one.bit_length() // 3
        if left < 0 or looked_at > _LOOKED_AT:
            return True
    return False
