"""Escaping and formatting of text for terminals. Standard library only, for fast startup."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stores.json_values import Json


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def safe(text: object) -> str:
    """Return one line in which control, format and unassigned characters are escaped.

    Ids and reasons from clients may contain "\\x1b[31m", line breaks or bidirectional overrides.
    """
    plain = str(text)
    if plain.isprintable():
        return plain
    return "".join(char if char.isprintable() else _escaped(char) for char in plain)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def short(text: object, limit: int) -> str:
    """Return `safe` text truncated to `limit` characters with an ellipsis."""
    line = safe(text)
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def pretty(value: Json, limit: int = 40, width: int = 500) -> list[str]:
    """Return indented JSON as escaped lines, truncated to `limit` lines of `width` characters with a note."""
    lines = [safe(line) for line in json.dumps(value, ensure_ascii=False, indent=2).split("\n")]
    shown = lines[:limit]
    more, cut = len(lines) - len(shown), sum(len(line) > width for line in shown)
    notes = [counted(more, "more line")] if more else []
    notes += [f"{counted(cut, 'line')} cut"] if cut else []
    note = [f"… {', '.join(notes)}; --json shows all"] if notes else []
    return [*(short(line, width) for line in shown), *note]


def document(value: Json) -> str:
    """Encode a JSON document as ASCII without control characters."""
    return json.dumps(value, indent=2).replace("\x7f", "\\u007f")


def iso(micros: int | None) -> str | None:
    """Format microseconds since 1970 as ISO 8601 in UTC."""
    return (
        None
        if micros is None
        else (_EPOCH + timedelta(microseconds=micros)).isoformat(timespec="microseconds")
    )


def clock(micros: int | None) -> str:
    """Format microseconds since 1970 as local date and time; None as "-"."""
    if micros is None:
        return "-"
    return datetime.fromtimestamp(micros / 1e6).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def span(seconds: float) -> str:
    """Format a duration in one or two units: 3.2 ms, 4.5 s, 2 min 5 s, 3 h 10 min, 5 d 2 h."""
    if not math.isfinite(seconds):
        return "never"
    if seconds < 0:
        return f"-{span(-seconds)}"
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms" if seconds < 0.9995 else "1 s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, name, lesser, under in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // lesser
            return f"{whole // size} {name}" + (f" {rest} {under}" if rest else "")
    return f"{whole} s"


def counted(number: int, noun: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def age(seconds: float) -> str:
    """Format a duration in one unit, for lists: 40s, 12m, 3h, 5d."""
    whole = max(0, int(seconds))
    for length, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if whole >= length:
            return f"{whole // length}{unit}"
    return f"{whole}s"


def size(count: int | None) -> str:
    """Format a number of bytes: 512 B, 1.5 MiB."""
    if count is None:
        return "-"
    if count < 1024:
        return f"{count} B"
    amount = float(count)
    for unit in ("KiB", "MiB", "GiB"):
        amount /= 1024
        if amount < 1024:
            return f"{amount:.1f} {unit}"
    return f"{amount / 1024:.1f} TiB"
