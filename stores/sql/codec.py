"""Between Python values and columns, the same for every database."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import cast

from stores.crons import CronRow
from stores.json_values import JsonMapping, JsonObject
from stores.rows import COUNTERS, MESSAGES, Decision, DrainWish, Json, Ownership, RunRow
from stores.spec import COLUMN_NAMES, PRIVATE, RECORDED, ROLES, Kind, RunColumns, value_in
from stores.sql.columns import Column, Columns, Convert
from stores.states import OPEN, CancelAction, Cause, DisconnectMode, RunStatus, WebhookState
from stores.times import iso
from stores.webhooks import ClaimedWebhook, WebhookRow

MAX_MODEL_NAME = 128

OPEN_STATUSES = "(" + ", ".join(f"'{status}'" for status in RunStatus if status in OPEN) + ")"
SHOWN_OPEN = frozenset(status.value for status in OPEN)
"""The shown statuses of a run that has not settled."""

_JSON = (Kind.json, Kind.opaque_json)
COUNTER_COLUMNS = COUNTERS + MESSAGES
_OWN = [field.name for field in fields(RunRow) if field.name not in COLUMN_NAMES]
_COUNTERS = _OWN.index("counters")
PLAIN_COLUMNS = (*_OWN[:_COUNTERS], *_OWN[_COUNTERS + 1 :], *COLUMN_NAMES)
"""What became of a run, then what its spec requests. The first is `run_id`."""
RUN_COLUMNS = ", ".join(PLAIN_COLUMNS + COUNTER_COLUMNS)
RUN_TEXTS = tuple(map(PLAIN_COLUMNS.index, ("metadata", "kwargs", "result", "rollback_ref", "extra")))
"""The places of the columns that may be large."""
_EMPTY = {
    "kwargs": "'{}' AS kwargs",
    "extra": "'{}' AS extra",
    **{name: f"NULL AS {name}" for name in ("result", "rollback_ref", *PRIVATE)},
}
DECISION_COLUMNS = (
    "run_id, thread_id, status, settled_at, owner_epoch, home_epoch, fence,"
    " cancel_action, cancel_cause, cancel_reason, cancel_actor, error"
)


_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


def _text_of(value: object) -> str:
    """`str()` of a value that JSON cannot hold: the same in every process for a set, and a name where it
    raises, because the caller's own code must not fail a write."""
    try:
        if value.__class__ in (set, frozenset):
            return f"{{{', '.join(sorted(map(repr, cast('set[object]', value))))}}}"
        return str(value)
    except Exception:  # noqa: BLE001 - RecursionError of a nested value, or an error of its own code
        return f"<{type(value).__name__}, which has no text>"


_encode_opaque = json.JSONEncoder(allow_nan=False, separators=(",", ":"), default=_text_of).encode


def dumps(value: Json) -> str:
    """ASCII JSON, so that a lone surrogate survives. Raises ValueError or TypeError for NaN and other values
    that JSON cannot hold, and for a value that is nested too deep to be read again."""
    if value.__class__ is dict and not value:  # most metadata: an encoder takes 1.4 us
        return "{}"
    try:
        return _encode(value)
    except RecursionError:
        raise ValueError("nested too deep for JSON") from None


def dumps_or_null(value: Json) -> str | None:
    """As `dumps`; None for None."""
    return None if value is None else dumps(value)


def dumps_opaque(value: JsonMapping) -> str:
    """As `dumps` for the caller's own kwargs: what JSON cannot hold is kept as its `str()`."""
    try:
        return _encode_opaque(value)
    except (ValueError, TypeError, RecursionError):
        return _encode({_text_of(key): _or_str(item) for key, item in value.items()})


def _or_str(value: object) -> Json:
    try:
        return json.loads(_encode_opaque(value))
    except (ValueError, TypeError, RecursionError):
        return _text_of(value)


def stamped(metadata: str, stamp: str) -> str:
    """JSON objects as texts: `metadata` with the keys of `stamp`. Metadata that cannot be read stays as it
    is."""
    if metadata.endswith(stamp[1:]):  # as it was stamped before: no need to read it
        return metadata
    try:
        held, keys = json.loads(metadata), json.loads(stamp)
        return metadata if keys.items() <= held.items() else dumps({**held, **keys})
    except (ValueError, TypeError, AttributeError, RecursionError):
        return metadata


_DEEPEST = 200


def is_json(value: object, depth: int = _DEEPEST) -> bool:
    """Whether `loads(dumps(value))` equals the value: str keys, lists, finite numbers, bounded depth."""
    kind = value.__class__
    if kind is str or kind is int or kind is bool or value is None:
        return True
    if kind is float:
        return math.isfinite(cast("float", value))
    if depth == 0:
        return False
    if kind is dict:
        for key, item in cast("dict[object, object]", value).items():
            if key.__class__ is not str or not is_json(item, depth - 1):
                return False
        return True
    return kind is list and all(is_json(item, depth - 1) for item in cast("list[object]", value))


def as_stored(kwargs: JsonObject) -> JsonObject:
    """The kwargs as every other process will read them, so that they are the same in this one; unchanged
    where JSON cannot hold them (then a value that only this process has, such as a callback, stays
    usable)."""
    if is_json(kwargs):
        return kwargs
    try:
        return json.loads(_encode(kwargs))
    except (ValueError, TypeError, RecursionError):
        return kwargs


def storable(text: str | None) -> str | None:
    """Databases hold UTF-8: a lone surrogate (in an exception's text, in a model's answer) is escaped,
    because a run whose error cannot be written could never end."""
    if text is None or text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def model_name_of(value: object) -> str | None:
    """The model name as it is stored: text, stripped, at most 128 characters."""
    return None if value is None else storable(str(value).strip()[:MAX_MODEL_NAME])


def loads(text: str | None) -> Json:
    """Raises ValueError where the text is no JSON, or nested too deep."""
    if text is None or text == "{}":
        return None if text is None else {}
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep for JSON") from None


def drain_wish(requested_at: int | str, grace_ms: int | str | None) -> DrainWish:
    return DrainWish(int(requested_at), None if grace_ms is None else int(grace_ms) / 1000)


def run_row(columns: Columns) -> RunRow:
    """Map a row selected with RUN_COLUMNS. Raises ValueError or TypeError where it cannot be read."""
    plain = list(columns[: len(PLAIN_COLUMNS)])
    for place, read in _READ:
        plain[place] = read(plain[place])
    plain.insert(_COUNTERS, dict(zip(COUNTER_COLUMNS, columns[len(PLAIN_COLUMNS) :], strict=True)))
    own = len(_OWN)
    return RunRow(*plain[:own], **dict(zip(COLUMN_NAMES, plain[own:], strict=True)))


Text = Callable[[str | None], str | None]
"""How an engine writes free text."""


def writers(text: Text) -> dict[str, Convert]:
    """A function for each field of a spec whose value is converted before it is written."""
    by_kind = {Kind.text: text, Kind.json: dumps_or_null, Kind.opaque_json: dumps_opaque}
    return {name: by_kind[role.kind] for name, role in ROLES.items() if role.kind in by_kind}


def spec_writer(text: Text, names: Sequence[str]) -> Callable[[RunColumns], list[Column]]:
    """Writes these fields of a spec, in this order."""
    pick = attrgetter(*names)
    written = [(names.index(name), write) for name, write in writers(text).items() if name in names]

    def write_spec(spec: RunColumns) -> list[Column]:
        values = list(pick(spec))
        for place, write in written:
            values[place] = write(values[place])
        return values

    return write_spec


def record_writer(text: Text) -> Callable[[JsonMapping], JsonObject]:
    """Writes what `put` takes of a spec (RECORDED), by name; a field that the record lacks gets its
    default."""
    write = writers(text)

    def write_record(record: JsonMapping) -> JsonObject:
        values = {name: value_in(record, name) for name in RECORDED}
        values["model_name"] = model_name_of(values["model_name"])
        return {name: write[name](value) if name in write else value for name, value in values.items()}

    return write_record


def run_columns(without: Collection[str]) -> str:
    """RUN_COLUMNS for lists: with empty values in place of these columns and of private ones."""
    empty = {*without, *PRIVATE}
    return ", ".join(_EMPTY[name] if name in empty else name for name in PLAIN_COLUMNS + COUNTER_COLUMNS)


def _or_none(kind: Callable[[str], Column]) -> Convert:
    return lambda text: kind(text) if text else None


def _columns_of(*kinds: Kind) -> list[str]:
    return [name for name in COLUMN_NAMES if ROLES[name].kind in kinds]


# By their places: pages of runs are read by the thousand values.
_READ: tuple[tuple[int, Convert], ...] = tuple(
    (PLAIN_COLUMNS.index(name), read)
    for read, names in (
        (loads, ("interrupts", "rollback_ref", "result", *_columns_of(*_JSON))),
        (bool, ("paused", "holds_thread", "portable", *_columns_of(Kind.flag))),
        (RunStatus.stored, ("status",)),
        (_or_none(CancelAction.stored), ("cancel_action",)),
        (_or_none(Cause.stored), ("cancel_cause",)),
    )
    for name in names
)


_STAMPS = (
    "cancel_requested_at",
    "cancel_delivered_at",
    "stopped_at",
    "settled_at",
    "started_at",
    "ended_at",
    "updated_at",
    "deadline_at",
    "queue_deadline_at",
)


def record(row: RunRow) -> JsonObject:
    """A row as the mapping that record operations return: plain values, ISO stamps, nothing private; status
    and on_disconnect as members, so that the value of a newer program differs from a damaged one."""
    named = {name: getattr(row, name) for name in PLAIN_COLUMNS if name not in PRIVATE}
    named.update(row.counters)
    named["status"] = row.status
    named["on_disconnect"] = DisconnectMode.stored(row.on_disconnect)
    named["cancel_action"] = row.cancel_action.value if row.cancel_action else None
    named["cancel_cause"] = row.cancel_cause.value if row.cancel_cause else None
    for name in _STAMPS:
        named[name] = iso(named[name])
    return named


def decision_of(columns: Columns, *, won: bool) -> Decision:
    """Map a row selected with DECISION_COLUMNS."""
    run_id, thread_id, status, settled_at, owner, home, fence, action, cause, reason, actor, error = columns
    return Decision(
        run_id,
        thread_id,
        RunStatus.stored(status),
        won,
        settled_at is not None,
        owner,
        home,
        fence,
        CancelAction.stored(action) if action else None,
        Cause.stored(cause) if cause else None,
        reason,
        actor,
        error,
    )


def running(own: Ownership, home: int | None) -> Decision:
    """How a run stands that has just started."""
    return Decision(own.run_id, own.thread_id, RunStatus.running, True, False, own.epoch, home, own.fence)


def token_totals(rows: Sequence[Columns]) -> JsonObject:
    """From (model, runs, total, input, output, lead agent, subagent, middleware) for each model."""
    runs, tokens, inputs, outputs, lead, subagent, middleware = (
        sum(row[at] for row in rows) for at in range(1, 8)
    )
    return {
        "total_tokens": tokens,
        "total_input_tokens": inputs,
        "total_output_tokens": outputs,
        "total_runs": runs,
        "by_model": {row[0]: {"tokens": row[2], "runs": row[1]} for row in rows},
        "by_caller": {"lead_agent": lead, "subagent": subagent, "middleware": middleware},
    }


_WEBHOOK_NAMES = tuple(f.name for f in fields(WebhookRow))
WEBHOOK_COLUMNS = ", ".join(_WEBHOOK_NAMES)


def webhook_row(columns: Columns) -> WebhookRow:
    """Map a row selected with WEBHOOK_COLUMNS."""
    named: dict[str, Column] = dict(zip(_WEBHOOK_NAMES, columns, strict=True))
    named["state"] = WebhookState.stored(named["state"])
    return WebhookRow(**named)


def claimed_webhook(columns: Columns, settled: JsonMapping) -> ClaimedWebhook:
    """`columns`: run_id, thread_id, user_id, attempts, url, run, and as JSON metadata, kwargs, values and
    interrupts. `settled`: the fields that are derived from `run`."""
    run_id, thread_id, user_id, attempt, url, _, *texts = columns
    names = ("metadata", "kwargs", "values", "interrupts")
    run = {name: loads(text) for name, text in zip(names, texts, strict=True)}
    run = {"run_id": run_id, "thread_id": thread_id, **settled, **run}
    return ClaimedWebhook(run_id, attempt, url, run, user_id)


_CRON_NAMES = tuple(f.name for f in fields(CronRow))
CRON_COLUMNS = ", ".join(_CRON_NAMES)
CRON_TEXTS = tuple(map(_CRON_NAMES.index, ("payload", "metadata", "user_document")))
CRON_VALUES = _CRON_NAMES[: _CRON_NAMES.index("last_at")]
"""The columns of a cron that its maker sets; the rest is the store's."""


def cron_values(cron: CronRow) -> tuple[Column, ...]:
    """In the order of CRON_VALUES."""
    written = {name: getattr(cron, name) for name in CRON_VALUES}
    written["payload"], written["metadata"] = dumps(cron.payload), dumps(cron.metadata)
    written["user_document"] = dumps_or_null(cron.user_document)
    return tuple(written.values())


def cron_row(columns: Columns) -> CronRow:
    """Map a row selected with CRON_COLUMNS."""
    named: dict[str, Column] = dict(zip(_CRON_NAMES, columns, strict=True))
    named["enabled"] = bool(named["enabled"])
    for name in ("payload", "metadata", "user_document"):
        named[name] = loads(named[name])
    return CronRow(**named)
