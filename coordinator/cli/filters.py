"""Filters as people write them: ages, and pairs of metadata."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from coordinator.errors import InvalidArgument

TIME = "2026-01-31 or 2026-01-31T12:00:00Z"
"""How a time is written."""
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


def seconds_of(text: str, option: str, *, or_time: bool = False) -> float:
    """`90m`, `12h`, `30d`, `2w`; a bare number is seconds. `or_time`: the option takes a time as well.
    Raises InvalidArgument."""
    found = re.fullmatch(r"(\d{1,9})([smhdw]?)", text.strip())
    if found is None:
        kinds, times = ("neither a duration nor a time", f", or {TIME}") if or_time else ("no duration", "")
        raise InvalidArgument(option, f"{text!r:.50} is {kinds}: write 90m, 12h, 30d or 2w{times}")
    return float(found[1]) * _UNITS[found[2] or "s"]


def micros_of(text: str, option: str, *, or_time: bool = False) -> int:
    return int(seconds_of(text, option, or_time=or_time) * 1e6)


def pairs_of(given: Iterable[str]) -> dict[str, Any]:
    """Each KEY=VALUE; a value that is no JSON is the text itself. Raises InvalidArgument."""
    return dict(_pair(text) for text in given)


def _pair(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise InvalidArgument("--metadata", f"{text!r:.50} is not KEY=VALUE")
    try:
        return key, json.loads(value)
    except (ValueError, RecursionError):
        return key, value
