"""`extract`: selects values of a thread by paths such as `values.messages[-1].content`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeAlias, cast

from coordinator.errors import InvalidArgument
from coordinator.gateway.wire.json import Json

_STEP = re.compile(r"\.?([A-Za-z_][A-Za-z0-9_-]{0,127})|\[(-?[0-9]{1,9})\]")
_MAX_LENGTH = 512
_ROOTS = frozenset({"values", "metadata", "config", "interrupts"})


Path: TypeAlias = list[str | int]
"""Keys of objects and indexes of lists."""


def parse_paths(paths: Mapping[str, str] | None) -> dict[str, Path]:
    """Parses `paths`, which map aliases to paths. Raises InvalidArgument."""
    return {alias: _parse(path) for alias, path in (paths or {}).items()}


def extract(thread: Mapping[str, Json], paths: Mapping[str, Path]) -> dict[str, Json]:
    """Returns the value at each path by alias; None where the path does not exist."""
    return {alias: _resolve(thread, path) for alias, path in paths.items()}


def _parse(path: str) -> Path:
    steps: Path = []
    position = 0
    while position < len(path) <= _MAX_LENGTH:
        step = _STEP.match(path, position)
        if step is None or (step[0].startswith(".") and not steps):
            break
        steps.append(step[1] if step[2] is None else int(step[2]))
        position = step.end()
    if not steps or position < len(path) or steps[0] not in _ROOTS:
        raise InvalidArgument("extract", f"{path!r:.80} is not a path like values.messages[-1].content")
    return steps


def _resolve(value: Json, path: Path) -> Json:
    for step in path:
        if isinstance(step, str):
            value = cast("dict[str, Json]", value).get(step) if isinstance(value, dict) else None
        else:
            items = cast("list[Json]", value if isinstance(value, list) else [])
            value = items[step] if -len(items) <= step < len(items) else None
    return value
