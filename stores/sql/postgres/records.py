"""The record operations of the gateways' own stores, on the same table. See
functions/6_records.sql."""

from __future__ import annotations

from stores.errors import StaleFence
from stores.json_values import JsonMapping
from stores.rows import COUNTERS, MESSAGES, Ownership
from stores.spec import RECORDED, ROLES
from stores.sql.codec import model_name_of, record_writer
from stores.sql.columns import Column
from stores.sql.postgres.calls import Call, Function, Query, Rows, nothing, scalar
from stores.sql.postgres.codec import SQL_TYPES, text
from stores.states import RunStatus
from stores.times import stamp

_write_record = record_writer(text)
_PUT = Function.named(
    "put",
    {
        "_run_id": "text",
        **{f"_{name}": SQL_TYPES[ROLES[name].kind] for name in RECORDED},
        "_status": "text",
        "_error": "text",
        "_created_at": "text",
        "_created_us": "bigint",
        "_counters": "bigint[]",
        "_last_ai": "text",
        "_first_human": "text",
        "_now": "bigint",
    },
)


def put(now: int | None, run_id: str, fields: JsonMapping) -> Call[None]:
    created_at = fields.get("created_at")
    args = (
        run_id,
        *_write_record(fields).values(),
        RunStatus(fields.get("status") or RunStatus.pending).value,
        text(fields.get("error")),
        *(stamp(created_at) if created_at else (None, None)),
        *_snapshot(fields),
        now,
    )
    return Call(_PUT, args, nothing)


def _snapshot(fields: JsonMapping) -> tuple[list[Column], str | None, str | None]:
    """Counters and messages; None = unchanged. Raises OverflowError."""
    last_ai, first_human = (text(fields.get(name)) for name in MESSAGES)
    counters = [fields.get(name) for name in COUNTERS]
    if any(value is not None and value.bit_length() > 63 for value in counters):
        raise OverflowError("a counter has more than 64 bits")
    return counters, last_ai, first_human


_STATUS = Function("update_status", ("text", "text", "text", "bigint"))


def update_status(now: int | None, run_id: str, status: str, error: str | None) -> Call[bool]:
    return Call(_STATUS, (run_id, status, text(error), now), scalar)


_MODEL_NAME = Function("update_model_name", ("text", "text", "bigint"))


def update_model_name(now: int | None, run_id: str, model_name: str | None) -> Call[bool]:
    return Call(_MODEL_NAME, (run_id, text(model_name_of(model_name)), now), scalar)


_COMPLETION = Function("update_completion", ("text", "text", "text", "bigint[]", "text", "text", "bigint"))


def update_completion(now: int | None, run_id: str, status: str | None, fields: JsonMapping) -> Call[bool]:
    args = (run_id, status, text(fields.get("error")), *_snapshot(fields), now)
    return Call(_COMPLETION, args, scalar)


_PROGRESS = Function("update_progress", ("text", "bigint[]", "text", "text", "bigint"))


def update_progress(now: int | None, run_id: str, fields: JsonMapping) -> Call[bool]:
    return Call(_PROGRESS, (run_id, *_snapshot(fields), now), scalar)


_EXTRA = Query(
    "SELECT extra FROM rc.runs WHERE run_id = $1 AND kind = 'run' AND ($2::text IS NULL OR user_id = $2)"
)


def extra(run_id: str, user_id: str | None) -> Call[str | None]:
    """The run's own fields as they are written; None = unknown run."""
    return Call(_EXTRA, (run_id, user_id), lambda rows: rows[0][0] if rows else None)


_UPDATE_EXTRA = Function("update_extra", ("text", "text", "text", "text", "bigint"))


def update_extra(now: int | None, run_id: str, user_id: str | None, was: str, becomes: str) -> Call[str]:
    """'updated'; 'changed' = the fields are not what they were (`was`); 'not found'."""
    return Call(_UPDATE_EXTRA, (run_id, user_id, was, becomes, now), scalar)


_DELETE = Function("delete", ("text",))


def delete(now: int | None, run_id: str) -> Call[None]:  # noqa: ARG001 - every transaction gets a clock
    return Call(_DELETE, (run_id,), nothing)


_DELETE_THREAD = Function("delete_thread", ("text", "text", "bigint", "bigint", "bigint"))


def delete_thread(now: int | None, own: Ownership) -> Call[None]:
    def answer(rows: Rows) -> None:
        if not scalar(rows):
            raise StaleFence(own.thread_id, own.fence)

    return Call(_DELETE_THREAD, (own.run_id, own.thread_id, own.epoch, own.fence, now), answer)
