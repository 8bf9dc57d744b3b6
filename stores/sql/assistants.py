"""Rows of assistants that clients create, as both engines read and write them."""

from __future__ import annotations

from dataclasses import fields

from stores.assistants import AssistantRow
from stores.sql.codec import dumps, loads, storable
from stores.sql.columns import Column, Columns

_NAMES = tuple(each.name for each in fields(AssistantRow))
COLUMNS = ", ".join(_NAMES)
VALUES = _NAMES[: _NAMES.index("version")]
"""The columns that the creator sets; the rest is the store's."""
CONTENT = VALUES[VALUES.index("graph_id") :]
"""The columns of a version."""
JSON = ("config", "context", "metadata")
JSON_COLUMNS = tuple(map(_NAMES.index, JSON))
_ELSEWHERE = {"user_id": "a.user_id", "updated_at": "v.created_at", "revision": "a.revision"}
OF_VERSION = ", ".join(f"{_ELSEWHERE.get(name, f'v.{name}')} AS {name}" for name in _NAMES)
"""COLUMNS of a version `v` of the assistant `a`."""


def values(assistant: AssistantRow) -> tuple[Column, ...]:
    """In the order of VALUES."""
    return tuple(
        dumps(value) if name in JSON else storable(value) if name == "description" else value
        for name, value in ((name, getattr(assistant, name)) for name in VALUES)
    )


def content(assistant: AssistantRow) -> tuple[Column, ...]:
    """In the order of CONTENT."""
    return values(assistant)[-len(CONTENT) :]


def assistant_row(columns: Columns) -> AssistantRow:
    """Maps a row selected with COLUMNS."""
    named: dict[str, Column] = dict(zip(_NAMES, columns, strict=True))
    return AssistantRow(**{**named, **{name: loads(named[name]) for name in JSON}})
