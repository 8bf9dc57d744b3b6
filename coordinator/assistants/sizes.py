"""How large values are: in memory, and as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from coordinator.schemas import Json
from stores.sql.codec import dumps

_NODE = 56
"""Bytes that a value costs beside its text."""
_SCALARS = frozenset((type(None), bool, float))
_LOOKED_AT = 20_000
"""Of so many values the size is counted; what has more of them counts as _MANY for each."""
_MANY = 100
_LONGER = 12
"""Times the size in memory that JSON takes at most: a character outside the BMP is two escapes of six."""


def size_of(*values: object, limit: float = float("inf")) -> int:
    """About how many bytes values of JSON's kinds take in memory; counted up to `limit`. None, and what is
    empty, counts as nothing."""
    size, left = _counted([value for value in values if value], limit)
    return size + _MANY * left


def exceeds(value: Json, limit: int) -> int | None:
    """Its bytes where it has more than `limit`, else None; also for what is no JSON, which is its writer's to
    tell. Written to know only where it may: most values are small."""
    size, left = _counted([value], limit / _LONGER)
    if not left and size * _LONGER <= limit:
        return None
    try:
        size = len(dumps(value))
    except (TypeError, ValueError):
        return None
    return size if size > limit else None


def _counted(todo: list[Any], limit: float) -> tuple[int, int]:
    """Bytes, and how many values were not looked at; of what is larger than `limit`, not all."""
    size = 0
    for looked_at, value in enumerate(todo):  # which grows meanwhile
        if size > limit:
            break
        if looked_at == _LOOKED_AT:
            return size, len(todo) - looked_at
        size += _NODE
        kind = value.__class__  # before isinstance, which takes as long as all the rest
        if kind is str:
            size += len(value)
        elif kind is dict:
            todo.extend(value)
            todo.extend(value.values())
        elif kind is list:
            todo.extend(value)
        elif kind not in _SCALARS:
            size += _of_another_kind(value, todo)
    return size, 0


def _of_another_kind(value: Any, todo: list[Any]) -> int:
    """Of a number, a tuple, or what a class makes of JSON's kinds."""
    if isinstance(value, int):
        return value.bit_length() >> 3
    if isinstance(value, (str, bytes)):
        return len(value)
    if isinstance(value, dict):
        items = cast("dict[Any, Any]", value)
        todo.extend((*items.keys(), *items.values()))
    elif isinstance(value, (list, tuple)):
        todo.extend(cast("Iterable[Any]", value))
    return 0
