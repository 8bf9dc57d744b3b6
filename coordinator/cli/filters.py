"""Parsing of filter options: durations, times, and metadata pairs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from coordinator.errors import InvalidArgument
from stores.json_values import Json, JsonObject

TIME = "2026-01-31 or 2026-01-31T12:00:00Z"
"""The accepted formats of a time."""
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


def seconds_of(text: str, option: str, *, or_time: bool = False) -> float:
    """Parse `90m`, `12h`, `30d`, `2w`; a number without unit is seconds. `or_time`: the option also accepts a
    time. Raises InvalidArgument."""
    match = re.fullmatch(r"(\d{1,9})([smhdw]?)", text.strip())
    if match is None:
        kinds, times = (
            ("neither a duration nor a time", f", or {TIME}") if or_time else ("not a duration", "")
        )
        raise InvalidArgument(option, f"{text!r:.50} is {kinds}: write 90m, 12h, 30d or 2w{times}")
    return float(match[1]) * _UNITS[match[2] or "s"]


def micros_of(text: str, option: str, *, or_time: bool = False) -> int:
    return int(seconds_of(text, option, or_time=or_time) * 1e6)


def pairs_of(given: Iterable[str]) -> JsonObject:
    """Parse KEY=VALUE pairs; a value that is not JSON is taken as text. Raises InvalidArgument."""
    return dict(_pair(text) for text in given)


def _pair(text: str) -> tuple[str, Json]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise InvalidArgument("--metadata", f"{text!r:.50} is not KEY=VALUE")
    try:
        return key, json.loads(value)
    except (ValueError, RecursionError):
        return key, value
