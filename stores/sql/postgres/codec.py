"""Values that PostgreSQL cannot hold as they are: U+0000 in a text, and the values that a run's first save
kept.

A text's U+0000 is written as a code point that stands for no character (and that one twice), so that every
text is read as it was given. JSON is ASCII and contains neither.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence

from stores.json_values import JsonMapping, JsonObject
from stores.rows import Decision, RunRow
from stores.spec import ROLES, Kind
from stores.sql import codec
from stores.sql.codec import COUNTER_COLUMNS, DECISION_COLUMNS, PLAIN_COLUMNS, decision_of, loads, run_row
from stores.sql.columns import Column, Columns

_ESCAPE = "\U0010ffff"
_NUL = _ESCAPE + "0"
_ITSELF = _ESCAPE + "1"

_SAVED = ("saved", "saved_values", "saved_interrupts")
_COLUMNS = (*PLAIN_COLUMNS, *COUNTER_COLUMNS)
RUN_COLUMNS = ", ".join((*_COLUMNS, *_SAVED))
_UNSAVED = {
    "saved": "false AS saved",
    "saved_values": "NULL AS saved_values",
    "saved_interrupts": "NULL AS saved_interrupts",
}
STANDING = ", ".join(f"(stands).{name.strip()}" for name in DECISION_COLUMNS.split(","))
"""The out-columns to select from functions that return `stands`."""
SQL_TYPES = {
    Kind.id: "text",
    Kind.text: "text",
    Kind.json: "text",
    Kind.opaque_json: "text",
    Kind.integer: "bigint",
    Kind.flag: "boolean",
}
STORED = tuple(name for name, role in ROLES.items() if role.kind in SQL_TYPES)
"""Fields of a spec that are attributes of rc.admission, under the same names."""
_DECISION_NAMES = [name.strip() for name in DECISION_COLUMNS.split(",")]
_REF = PLAIN_COLUMNS.index("rollback_ref")


def text(value: str | None) -> str | None:
    """The text as it is written to the database."""
    value = codec.storable(value)
    if value is None or value.isprintable():
        return value
    if "\0" in value or _ESCAPE in value:
        return value.replace(_ESCAPE, _ITSELF).replace("\0", _NUL)
    return value


def plain(value: object) -> Column:
    """The value as it was given, from what is stored."""
    if isinstance(value, str) and _ESCAPE in value:
        return value.replace(_NUL, "\0").replace(_ITSELF, _ESCAPE)
    return value


def run_of(columns: Columns) -> RunRow:
    """Map a row selected with RUN_COLUMNS. Raises ValueError where it cannot be read."""
    fields = list(columns)
    for place, value in enumerate(fields):
        if value.__class__ is str and _ESCAPE in value:
            fields[place] = plain(value)
    saved, values, interrupts = fields[len(_COLUMNS) :]
    if saved:
        fields[_REF] = json.dumps(with_saved(fields[_REF], values, interrupts))
    return run_row(fields[: len(_COLUMNS)])


def run_columns(without: Collection[str]) -> str:
    """RUN_COLUMNS for lists: with empty values in place of these columns and of private ones."""
    saved = _UNSAVED.values() if "rollback_ref" in without else _SAVED
    return ", ".join((codec.run_columns(without), *saved))


def run_of_json(row: JsonMapping) -> RunRow:
    """Map a row that came as `to_json` of it."""
    return run_of([row[name] for name in (*_COLUMNS, *_SAVED)])


def with_saved(ref: str | None, values: str | None, interrupts: str | None) -> JsonObject:
    """A rollback reference with what the thread had before the run's first save. Raises ValueError."""
    return {"values": loads(values), "interrupts": loads(interrupts), **(loads(ref) or {})}


def standing(columns: Columns, *, won: bool = False, children: str | None = None) -> Decision:
    """Map what was selected with STANDING; `children` as functions return them."""
    decision = decision_of([plain(value) for value in columns], won=won)
    return decision if children is None else decision._replace(children=children_of(children))


def decided_of_json(row: JsonMapping) -> Decision:
    """Map what `rc.decide` has returned, as `to_json` of it."""
    stands = [plain(row["stands"][name]) for name in _DECISION_NAMES]
    decision = decision_of(stands, won=row["won"])
    return decision._replace(children=_children(row["children"] or []))


def children_of(answer: str | None) -> tuple[Decision, ...]:
    """The children that a run has cancelled with it, as functions return them."""
    return () if answer is None else _children(json.loads(answer))


def _children(rows: Sequence[Columns]) -> tuple[Decision, ...]:
    return tuple(decision_of([plain(value) for value in row], won=True) for row in rows)
