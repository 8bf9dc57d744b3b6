"""What SQLite lacks of JSON, as functions of the connection: PostgreSQL's `@>` on jsonb; merged keys."""

from __future__ import annotations

import json
import sqlite3
from functools import lru_cache
from typing import Any, cast

from stores.sql.codec import stamped


def register(cx: sqlite3.Connection) -> None:
    """Give the connection `json_contains(whole, part)`: 1 or 0, also for what is no JSON; and
    `json_stamped(metadata, stamp)`, see `stores.sql.codec`."""
    cx.create_function("json_contains", 2, _json_contains, deterministic=True)
    cx.create_function("json_stamped", 2, stamped, deterministic=True)


def _json_contains(whole: str | None, part: str) -> int:
    try:
        return int(whole is not None and contains(json.loads(whole), _parsed(part)))
    except (ValueError, RecursionError):
        return 0


@lru_cache(maxsize=64)
def _parsed(part: str) -> Any:
    """The same for every row of a query. Nobody changes it."""
    return json.loads(part)


def contains(whole: Any, part: Any) -> bool:
    """Objects by key, arrays by element in any order, whatever else by equality; `true` is not 1."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(
            key in whole and contains(whole[key], value)
            for key, value in cast("dict[str, Any]", part).items()
        )
    if isinstance(part, list):
        return isinstance(whole, list) and all(
            any(contains(element, wanted) for element in cast("list[Any]", whole))
            for wanted in cast("list[Any]", part)
        )
    return isinstance(part, bool) == isinstance(whole, bool) and part == whole
