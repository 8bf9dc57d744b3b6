"""Between Python values and SQLite columns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from stores.rows import COUNTERS, MESSAGES, Json, RunRow
from stores.states import OPEN, CancelAction, Cause, RunStatus

MAX_MODEL_NAME = 128

OPEN_STATUSES = "(" + ", ".join(f"'{status}'" for status in RunStatus if status in OPEN) + ")"
IN_FLIGHT = f"(holds_thread OR status IN {OPEN_STATUSES})"
"""Word for word the condition of the partial index `runs_inflight`, so that SQLite may use it."""
IN_FLIGHT_RUNS = "runs INDEXED BY runs_inflight"
"""Without statistics SQLite prefers the history index, and admission would slow down with every
finished run of the thread. INDEXED BY fails loudly where the index cannot serve the query."""
WAITS = (
    "status = 'pending' AND NOT holds_thread AND owner_epoch IS NULL AND (home_epoch IS NOT NULL OR portable)"
)
"""Waits for the thread, or for its time. Without a home it was handed over, to whoever knows its assistant;
what has neither home nor portability was imported, and stands beside the slot."""
IN_LINE = f"{WAITS} AND not_before IS NULL"
"""Waits for the thread. Until a delayed run is put into the line (`admission.queue_due`), nobody waits
behind it."""
WAITING = f"{IN_FLIGHT} AND {IN_LINE}"
ALIVE = "(SELECT epoch FROM workers WHERE state <> 'dead')"
HOMELESS = f"(home_epoch IS NULL OR home_epoch NOT IN {ALIVE})"
KNOWN = (
    "assistant_id IN (SELECT value FROM json_each((SELECT assistants FROM workers"
    " WHERE epoch = :epoch AND state = 'live')))"
)
"""The worker `:epoch` can execute it. One that drains takes nothing over."""

_JSON_COLUMNS = ("interrupts", "rollback_ref", "metadata", "kwargs", "result")
_COUNTER_COLUMNS = COUNTERS + MESSAGES
_PLAIN_COLUMNS = tuple(f.name for f in fields(RunRow) if f.name != "counters")
RUN_COLUMNS = ", ".join(_PLAIN_COLUMNS + _COUNTER_COLUMNS)


_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
_encode_opaque = json.JSONEncoder(allow_nan=False, separators=(",", ":"), default=str).encode


def dumps(value: Json) -> str:
    """ASCII JSON, so that a lone surrogate survives. Raises ValueError or TypeError for NaN and whatever
    else JSON cannot hold, and for what is nested so deep that reading it back would fail."""
    try:
        return _encode(value)
    except RecursionError:
        raise ValueError("nested too deep for JSON") from None


def dumps_opaque(value: Mapping[str, Any]) -> str:
    """As `dumps` for the caller's own kwargs: what JSON cannot hold is kept as its `str()`."""
    try:
        return _encode_opaque(value)
    except (ValueError, TypeError, RecursionError):
        return _encode({str(key): _or_str(item) for key, item in value.items()})


def _or_str(value: Any) -> Any:
    try:
        return json.loads(_encode_opaque(value))
    except (ValueError, TypeError, RecursionError):
        pass
    try:
        return str(value)
    except RecursionError:  # repr() of something nested is as deep as its JSON
        return f"<{type(value).__name__}, nested too deep>"


def storable(text: str | None) -> str | None:
    """SQLite holds UTF-8: a lone surrogate (in an exception's text, in a model's answer) is escaped,
    because a run whose error cannot be written could never end."""
    if text is None or text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def model_name_of(value: object) -> str | None:
    """As it is stored: text, stripped, at most 128 characters."""
    return None if value is None else storable(str(value).strip()[:MAX_MODEL_NAME])


def loads(text: str | None) -> Json:
    """Raises ValueError where the text is no JSON, or nested too deep."""
    try:
        return None if text is None else json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep for JSON") from None


def run_row(columns: Sequence[Any]) -> RunRow:
    """Map a row selected with RUN_COLUMNS. Raises ValueError on a status this version does not know."""
    named = dict(zip(_PLAIN_COLUMNS, columns, strict=False))
    for name in _JSON_COLUMNS:
        named[name] = loads(named[name])
    named["status"] = RunStatus(named["status"])
    named["cancel_action"] = CancelAction(named["cancel_action"]) if named["cancel_action"] else None
    named["cancel_cause"] = Cause(named["cancel_cause"]) if named["cancel_cause"] else None
    for name in ("paused", "holds_thread", "portable"):
        named[name] = bool(named[name])
    counters: dict[str, Any] = dict(zip(_COUNTER_COLUMNS, columns[len(_PLAIN_COLUMNS) :], strict=True))
    return RunRow(**named, counters=counters)
