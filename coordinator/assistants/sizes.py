"""Sizes of values, in memory and as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from coordinator.schemas import Json
from stores.sql.codec import dumps

_NODE = 56
"""Bytes per value, in addition to its text."""
_SCALARS = frozenset((type(None), bool, float))
_MAX_MEASURED = 20_000
"""Number of values that are measured; each further one is estimated with _ESTIMATE bytes."""
_ESTIMATE = 100
_JSON_FACTOR = 12
"""Maximum ratio of JSON size to size in memory: a character outside the BMP is two escapes of six bytes."""


def size_of(*values: object, limit: float = float("inf")) -> int:
    """Estimate the bytes that JSON values occupy in memory; stops at `limit`. None and empty values count as
    0."""
    size, left = _measured([value for value in values if value], limit)
    return size + _ESTIMATE * left


def exceeds(value: Json, limit: int) -> int | None:
    """Return the size in bytes of JSON if it exceeds `limit`, else None. None also for values that are not
    JSON: the write itself reports them. Encodes only values that may exceed the limit; most are small."""
    size, left = _measured([value], limit / _JSON_FACTOR)
    if not left and size * _JSON_FACTOR <= limit:
        return None
    try:
        size = len(dumps(value))
    except (TypeError, ValueError):
        return None
    return size if size > limit else None


def _measured(todo: list[Any], limit: float) -> tuple[int, int]:  # Any: values of users, of any class
    """Return bytes, and the number of values not measured. Stops early if the size exceeds `limit`."""
    size = 0
    for measured, value in enumerate(todo):  # the loop appends to `todo`
        if size > limit:
            break
        if measured == _MAX_MEASURED:
            return size, len(todo) - measured
        size += _NODE
        kind = value.__class__  # isinstance would take as long as the rest of the loop
        if kind is str:
            size += len(value)
        elif kind is dict:
            todo.extend(value)
            todo.extend(value.values())
        elif kind is list:
            todo.extend(value)
        elif kind not in _SCALARS:
            size += _size_of_other(value, todo)
    return size, 0


def _size_of_other(value: Any, todo: list[Any]) -> int:  # Any: values of users
    """Measure integers, tuples, and subclasses of JSON types."""
    if isinstance(value, int):
        return value.bit_length() >> 3
    if isinstance(value, (str, bytes)):
        return len(value)
    if isinstance(value, dict):
        items = cast("dict[Any, Any]", value)  # Any: an exact dict
        todo.extend((*items.keys(), *items.values()))
    elif isinstance(value, (list, tuple)):
        todo.extend(cast("Iterable[Any]", value))  # Any: an iterable of values of users
    return 0
