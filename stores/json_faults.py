"""Describes where and why a value cannot be encoded as JSON, for the error text of a run."""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import cast

from stores.json_values import Json

LONGEST = 200
"""Maximum number of characters of a path in a message."""
_MAX_DEPTH = 500


def json_fault(name: str, value: object) -> str | None:
    """Returns the path (beginning with `name`) and the type of the first part of `value` that `codec.dumps`
    refuses, or None. Never raises, even if the value's own code does."""
    try:
        return next(_faults(name, value, ()), None)
    except Exception as error:  # noqa: BLE001 - code of the caller's value raised
        return f"{name} cannot be read ({type(error).__name__})"


def _faults(path: str, value: object, above: tuple[int, ...]) -> Generator[str]:
    shown = path if len(path) <= LONGEST else f"{path[:LONGEST]}..."
    if value is None or isinstance(value, (str, int)):
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            yield f"{shown} is {value}, which JSON cannot hold"
    elif not isinstance(value, (dict, list, tuple)):
        yield f"{shown} is of type {_name_of(value)}, which JSON cannot hold"
    elif id(cast("object", value)) in above:
        yield f"{shown} holds itself"
    elif len(above) == _MAX_DEPTH:
        yield f"{shown} is nested too deep for JSON"
    else:
        within = (*above, id(cast("object", value)))
        for part, item in _parts(path, shown, cast("Json", value)):
            if part is None:
                yield item
            else:
                yield from _faults(part, item, within)


def _parts(path: str, shown: str, value: Json) -> Generator[tuple[str | None, Json]]:
    """Yields (path, part) of each item, and (None, fault) for a key that JSON does not allow."""
    if not isinstance(value, dict):
        yield from ((f"{path}[{at}]", item) for at, item in enumerate(value))
        return
    for key, item in cast("dict[object, object]", value).items():
        if key is not None and not isinstance(key, (str, int, float)):
            yield None, f"a key of {shown} is of type {_name_of(key)}, which JSON cannot hold"
        elif isinstance(key, str) and key.isidentifier() and key.isascii():
            yield f"{path}.{key}", item
        else:
            yield f"{path}[{key!r:.80}]", item


def _name_of(value: object) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
