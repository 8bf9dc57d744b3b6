"""JSON functions that SQLite lacks, added to a connection: PostgreSQL's `@>` on jsonb, and merging keys."""

from __future__ import annotations

import json
import re
import sqlite3
from functools import lru_cache
from typing import cast

from stores.json_values import Json, JsonObject
from stores.sql.codec import dumps, stamped
from stores.sql.sqlite.searches import look


def register(cx: sqlite3.Connection) -> None:
    """Adds `json_contains(whole, part)` to the connection: 1 or 0, also for text that is no JSON; it stops a
    search that is over. And `json_stamped(metadata, stamp)`, see `stores.sql.codec`."""
    cx.create_function("json_contains", 2, _json_contains, deterministic=True)
    cx.create_function("json_stamped", 2, stamped, deterministic=True)


def _json_contains(whole: str | None, part: str) -> int:
    look()
    try:
        return int(whole is not None and contains(json.loads(whole), _parsed(part)))
    except (ValueError, RecursionError):
        return 0


@lru_cache(maxsize=64)
def _parsed(part: str) -> Json:
    """The same object for every row of a query. Callers must not change it."""
    return json.loads(part)


def contains(whole: Json, part: Json) -> bool:
    """Compares objects by key, arrays by element in any order, other values by equality; `true` is not 1."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(
            key in whole and contains(whole[key], value) for key, value in cast("JsonObject", part).items()
        )
    if isinstance(part, list):
        return isinstance(whole, list) and _has_all(cast("list[Json]", whole), cast("list[Json]", part))
    return _scalar(part) == _scalar(whole)


def _has_all(whole: list[Json], parts: list[Json]) -> bool:
    """Scalars are compared by hash: the time for two long lists is linear in their lengths."""
    scalars = {_scalar(part) for part in parts if not _is_nested(part)}
    if scalars and not scalars.issubset(_scalar(element) for element in whole if not _is_nested(element)):
        return False
    return all(_has(whole, part) for part in parts if _is_nested(part))


def _is_nested(value: Json) -> bool:
    return isinstance(value, (dict, list))


def _has(whole: list[Json], part: Json) -> bool:
    for element in whole:
        if type(element) is type(part):
            look()
            if contains(element, part):
                return True
    return False


def _scalar(value: Json) -> tuple[bool, Json]:
    return isinstance(value, bool), value


def containing(column: str, name: str, part: JsonObject, args: JsonObject) -> str:
    """The condition that the JSON of `column` contains `part`; its parameters, which begin with `name`, are
    added to `args`."""
    conditions = list[str]()
    for at, word in enumerate(_words(part)):
        conditions.append(f"instr({column}, :{name}_{at})")
        args[f"{name}_{at}"] = word
    args[name] = dumps(part)
    return " AND ".join((*conditions, f"json_contains({column}, :{name})"))


_PLAIN = re.compile(r"[A-Za-z0-9_ .:-]{3,}")
_MOST_WORDS = 4


def _words(part: JsonObject) -> list[str]:
    """A few texts, keys or strings, that are in the JSON of every value that contains the part: they exclude
    most rows. Only texts that all writers encode in the same way."""
    words, todo = set[str](), list[Json]([part])
    for value in todo:  # the list grows during the loop
        if isinstance(value, dict):
            fields = cast("JsonObject", value)
            words.update(filter(_PLAIN.fullmatch, fields))
            todo += fields.values()
        elif isinstance(value, list):
            todo += cast("list[Json]", value)
        elif isinstance(value, str) and _PLAIN.fullmatch(value):
            words.add(value)
    return [dumps(word) for word in sorted(words, key=lambda word: (-len(word), word))[:_MOST_WORDS]]
