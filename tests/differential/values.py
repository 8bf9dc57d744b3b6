"""The values that a sequence passes to the store: texts and JSON that engines represent differently."""

from __future__ import annotations

from random import Random
from typing import Any

TEXTS: tuple[str, ...] = (
    "",
    " ",
    "a",
    "A",
    "ä",
    "é",
    "中",
    "𝄞",
    "\0",
    "x\0y",
    "\ud800",
    "\udc00\ud800",
    "\ufffe",
    "\U0010ffff",
    "\U0010ffff0",
    "\U0010ffff1",
    "\\",
    "\\u0000",
    "'",
    '"',
    "%",
    "_",
    "\n",
    "1",
    "true",
    "x" * 5_000,
)
"""NUL and lone surrogates cannot be stored as text by PostgreSQL, and U+10FFFF is what escapes them there."""
NUMBERS: tuple[int | float, ...] = (
    0,
    1,
    -1,
    1.0,
    0.1,
    -0.0,
    5e-324,
    1e22,
    1e23,
    10**23,
    1e308,
    2**53 + 1,
    float(2**53),
    10**30,
)
KEYS: tuple[str, ...] = ("k", "k2", "n", "graph_id", *TEXTS)
CREATED: tuple[str, ...] = (
    "2026-01-01T00:00:00Z",
    "2026-01-01 00:00:00",
    "2026-01-01T03:00:00.5+03:00",
    "garbage",
    "",
)
DEPTH = 4


def json_value(random: Random, depth: int = 0) -> Any:
    kind = random.random()
    if depth == DEPTH or kind < 0.45:
        return random.choice((None, True, False, random.choice(NUMBERS), random.choice(TEXTS)))
    size = random.randint(0, 3)
    if kind < 0.75:
        return {random.choice(TEXTS): json_value(random, depth + 1) for _ in range(size)}
    return [json_value(random, depth + 1) for _ in range(size)]


def json_object(random: Random) -> dict[str, Any]:
    return {random.choice(KEYS): json_value(random, 1) for _ in range(random.randint(0, 3))}


def part_of(random: Random, value: dict[str, Any]) -> dict[str, Any]:
    """An object that `value` contains."""
    return {key: item for key, item in value.items() if random.random() < 0.7}


def text(random: Random) -> str | None:
    return random.choice((None, "why", random.choice(TEXTS)))


def created_at(random: Random, number: int) -> str:
    return random.choice((f"2026-01-01T00:00:{number % 60:02}+00:00", *CREATED))
