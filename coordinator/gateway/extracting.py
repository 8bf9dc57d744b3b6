"""`extract`: values out of a thread by paths like `values.messages[-1].content`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeAlias, cast

from coordinator.errors import InvalidArgument
from coordinator.gateway.wire.json import Json

_STEP = re.compile(r"\.?([A-Za-z_][A-Za-z0-9_-]{0,127})|\[(-?[0-9]{1,9})\]")
_LONGEST = 512
_ROOTS = frozenset({"values", "metadata", "config", "interrupts"})


Path: TypeAlias = list[str | int]
"""Keys and places."""


def parsed(paths: Mapping[str, str] | None) -> dict[str, Path]:
    """By alias. Raises InvalidArgument."""
    return {alias: _steps(path) for alias, path in (paths or {}).items()}


def extracted(thread: Mapping[str, Json], paths: Mapping[str, Path]) -> dict[str, Json]:
    """What is not there is None."""
    return {alias: _at(thread, path) for alias, path in paths.items()}


def _steps(path: str) -> Path:
    found: Path = []
    position = 0
    while position < len(path) <= _LONGEST:
        step = _STEP.match(path, position)
        if step is None or (step[0].startswith(".") and not found):
            break
        found.append(step[1] if step[2] is None else int(step[2]))
        position = step.end()
    if not found or position < len(path) or found[0] not in _ROOTS:
        raise InvalidArgument("extract", f"{path!r:.80} is no path like values.messages[-1].content")
    return found


def _at(value: Json, path: Path) -> Json:
    for step in path:
        if isinstance(step, str):
            value = cast("dict[str, Json]", value).get(step) if isinstance(value, dict) else None
        else:
            items = cast("list[Json]", value if isinstance(value, list) else [])
            value = items[step] if -len(items) <= step < len(items) else None
    return value
