"""Reads that are the same SQL on both engines. None of them takes a lock.

`CAST(:user AS text) IS NULL`: PostgreSQL needs the type of a parameter that is only compared with NULL.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

from stores.assistants import AssistantRow
from stores.crons import CronRow
from stores.finding import IdKind
from stores.json_values import JsonObject
from stores.rows import RunRow, Transition
from stores.sql import assistants
from stores.sql.codec import CRON_COLUMNS, WEBHOOK_COLUMNS, cron_row, record, token_totals, webhook_row
from stores.sql.columns import Column
from stores.sql.conditions import IN_FLIGHT, ROLLED_BACK, SHOWN_STATUS, WAITING
from stores.sql.readable import readable
from stores.sql.select import RUNS_IN_FLIGHT, RUNS_IN_FLIGHT_BY_ID, Mapper, Row, Select, member_of
from stores.sql.tables import END_OF_IDS, IDS
from stores.states import Cause, RunStatus
from stores.webhooks import WebhookRow

_OF_USER = "(CAST(:user AS text) IS NULL OR user_id = :user)"
_NEWEST_FIRST = "created_us DESC NULLS LAST"


def _mapped(rows: Sequence[Row], mapper: Mapper) -> Column:
    """The only row; None = there is none."""
    return mapper(rows[0]) if rows else None


def _first(rows: Sequence[Row], _: Mapper) -> Column:
    """The only column of the only row, as stored; None = there is none."""
    return rows[0][0] if rows else None


def _count(rows: Sequence[Row], _: Mapper) -> int:
    return rows[0][0]


def _ids(rows: Sequence[Row], _: Mapper) -> list[str]:
    return [row[0] for row in rows]


def _runs(rows: Sequence[Row], mapper: Mapper) -> list[RunRow]:
    return readable("run", rows, mapper)


def _records(rows: Sequence[Row], mapper: Mapper) -> list[JsonObject]:
    """Unreadable rows are left out; for these `get` raises."""
    return [record(run) for run in readable("run", rows, mapper)]


# -- runs as workers and operators see them


_ONE = f"run_id = :run AND {_OF_USER}"
_HOLDER = (
    f"thread_id = :thread AND {IN_FLIGHT} ORDER BY holds_thread DESC, not_before IS NOT NULL, seq LIMIT 1"
)
_LINE = f"thread_id = :thread AND {WAITING} ORDER BY seq"
_PENDING_ON = (
    "owner_epoch = :epoch AND holds_thread AND status = 'pending' AND kind = 'run'"
    " ORDER BY row_number() OVER (PARTITION BY user_id ORDER BY created_us NULLS FIRST, run_id),"
    " created_us NULLS FIRST, run_id"
)


def row(run_id: str, user_id: str | None) -> Select[RunRow | None]:
    return Select(None, "runs", _ONE, {"run": run_id, "user": user_id}, _mapped, private=True)


def holder(thread_id: str) -> Select[str | None]:
    """The run that holds the thread or, where none does, the oldest one in flight; a delayed one last."""
    return Select("run_id", RUNS_IN_FLIGHT, _HOLDER, {"thread": thread_id}, _first)


def waiting_line(thread_id: str) -> Select[list[str]]:
    """Run ids in the order in which they will take the thread."""
    return Select("run_id", RUNS_IN_FLIGHT, _LINE, {"thread": thread_id}, _ids)


def pending_on(epoch: int) -> Select[list[str]]:
    """Runs that hold their thread on that worker and have not started: the oldest of each user, then the
    second one of each, and so on."""
    return Select("run_id", "runs", _PENDING_ON, {"epoch": epoch}, _ids)


def runs(
    *, thread_id: str | None, statuses: tuple[str, ...], limit: int, in_flight: bool
) -> Select[list[RunRow]]:
    """Newest first. Operations are left out: they are not runs that a client started."""
    where, parameters = _narrowed("status", statuses, thread_id=thread_id)
    if in_flight:
        where += f" AND {IN_FLIGHT}"
    return Select(
        None,
        RUNS_IN_FLIGHT if in_flight else "runs",
        f"{where} ORDER BY {_NEWEST_FIRST}, run_id LIMIT :limit",
        {**parameters, "limit": limit},
        _runs,
    )


def _narrowed(
    status: str, statuses: Sequence[str], *, thread_id: str | None = None, user_id: str | None = None
) -> tuple[str, dict[str, object]]:
    """The condition, its parameters. `status`: the expression that is one of `statuses` (() = any)."""
    where, parameters = "kind = 'run'", dict[str, object]()
    for column, name, value in (("thread_id", "thread", thread_id), ("user_id", "user", user_id)):
        if value is not None:
            where += f" AND {column} = :{name}"
            parameters[name] = value
    if statuses:
        condition, named = member_of(status, "status", statuses)
        where += f" AND {condition}"
        parameters.update(named)
    return where, parameters


_TRANSITION = ", ".join(field.name for field in fields(Transition))


def transitions(run_id: str) -> Select[list[Transition]]:
    def answer(rows: Sequence[Row], mapper: Mapper) -> list[Transition]:
        stored = readable("transition", rows, lambda row: _transition(mapper(row)))
        return [line for row in stored for line in _lines(row)]

    return Select(_TRANSITION, "transitions", "run_id = :run ORDER BY id", {"run": run_id}, answer)


def _transition(columns: Row) -> Transition:
    number, run_id, thread_id, at, what, was, becomes, holds, *rest = columns
    cause, actor, epoch, fence, detail = rest
    return Transition(
        id=number,
        run_id=run_id,
        thread_id=thread_id,
        at=at,
        what=what,
        from_status=RunStatus.stored(was) if was else None,
        to_status=RunStatus.stored(becomes),
        holds_thread=bool(holds),
        cause=Cause.stored(cause) if cause else None,
        actor=actor,
        epoch=epoch,
        fence=fence,
        detail=detail,
    )


def _lines(stored: Transition) -> list[Transition]:
    """A run that started in the transaction of its admission has one row for both lines."""
    if stored.what != "started" or stored.from_status is not None:
        return [stored]
    return [
        replace(stored, what="admitted", to_status=RunStatus.pending),
        replace(stored, from_status=RunStatus.pending, actor=None),
    ]


def ids_from(kind: IdKind, prefix: str, limit: int) -> Select[list[str]]:
    table, column, condition = IDS[kind]
    where = f"{column} >= :first AND {column} < :end{condition} ORDER BY {column} LIMIT :limit"
    return Select(column, table, where, {"first": prefix, "end": prefix + END_OF_IDS, "limit": limit}, _ids)


# -- runs as clients see them: with the shown status, without those that were rolled back


def run(run_id: str, thread_id: str | None, user_id: str | None) -> Select[RunRow | None]:
    return Select(
        None,
        "runs",
        f"run_id = :run AND kind = 'run' AND NOT {ROLLED_BACK}"
        f" AND (CAST(:thread AS text) IS NULL OR thread_id = :thread) AND {_OF_USER}",
        {"run": run_id, "thread": thread_id, "user": user_id},
        _mapped,
    )


def thread_of_key(key: str, user_id: str | None) -> Select[str | None]:
    condition = "idempotency_key = :key AND COALESCE(user_id, '') = :user ORDER BY run_id LIMIT 1"
    return Select("thread_id", "runs", condition, {"key": key, "user": user_id or ""}, _first)


def narrowed(statuses: Sequence[str], user_id: str | None) -> tuple[str, dict[str, object]]:
    """The condition of runs of a user (None = of all) with one of these shown statuses (() = any), and its
    parameters."""
    return _narrowed(SHOWN_STATUS, statuses, user_id=user_id)


def inflight_runs(
    *, statuses: tuple[str, ...], thread_id: str | None, user_id: str | None, after: str, limit: int
) -> Select[list[RunRow]]:
    where, parameters = _narrowed(SHOWN_STATUS, statuses, thread_id=thread_id, user_id=user_id)
    return Select(
        None,
        RUNS_IN_FLIGHT_BY_ID if thread_id is None else RUNS_IN_FLIGHT,
        f"{IN_FLIGHT} AND {where} AND run_id > :after ORDER BY run_id LIMIT {limit:d}",
        {**parameters, "after": after},
        _runs,
    )


def started_runs(thread_id: str, after: int, limit: int, user_id: str | None) -> Select[list[RunRow]]:
    """In the order in which they took the thread. `fence > 0` and the kind are those of the index."""
    return Select(
        None,
        "runs",
        f"thread_id = :thread AND fence > :after AND fence > 0 AND kind = 'run' AND {_OF_USER}"
        " ORDER BY fence LIMIT :limit",
        {"thread": thread_id, "after": after, "limit": limit, "user": user_id},
        _runs,
    )


# -- records


def get(run_id: str, user_id: str | None) -> Select[JsonObject | None]:
    def answer(rows: Sequence[Row], mapper: Mapper) -> JsonObject | None:
        return record(mapper(rows[0])) if rows else None

    return Select(None, "runs", _ONE, {"run": run_id, "user": user_id}, answer)


def list_by_thread(thread_id: str, user_id: str | None, limit: int) -> Select[list[JsonObject]]:
    return Select(
        None,
        "runs",
        f"thread_id = :thread AND kind = 'run' AND {_OF_USER} ORDER BY {_NEWEST_FIRST}, seq LIMIT :limit",
        {"thread": thread_id, "user": user_id, "limit": limit},
        _records,
    )


def list_open(statuses: tuple[str, ...], before: int | None, *, inclusive: bool) -> Select[list[JsonObject]]:
    """Runs with one of the statuses, oldest first; rows that cannot be read are skipped."""
    where, parameters = _narrowed("status", statuses)
    compare = "<=" if inclusive else "<"
    return Select(
        None,
        RUNS_IN_FLIGHT,
        f"{IN_FLIGHT} AND {where} AND (CAST(:before AS bigint) IS NULL OR created_us {compare} :before)"
        " ORDER BY created_us NULLS FIRST, seq, run_id",
        {**parameters, "before": before},
        _records,
    )


_COUNTED = ("total", "total_input", "total_output", "lead_agent", "subagent", "middleware")
_TOKENS = "COALESCE(NULLIF(model_name, ''), 'unknown'), count(*), " + ", ".join(
    f"CAST(sum({name}_tokens) AS bigint)" for name in _COUNTED
)


def aggregate_tokens(thread_id: str, *, include_active: bool) -> Select[JsonObject]:
    def answer(rows: Sequence[Row], mapper: Mapper) -> JsonObject:
        return token_totals([mapper(row) for row in rows])

    statuses = ("success", "error", "running") if include_active else ("success", "error")
    where, parameters = _narrowed("status", statuses, thread_id=thread_id)
    return Select(_TOKENS, "runs", f"{where} GROUP BY 1", parameters, answer)


# -- webhooks, crons, assistants


def count_webhooks(states: Sequence[str], user_id: str | None) -> Select[int]:
    where, parameters = _webhooks(states, user_id)
    return Select("count(*)", "webhooks", where, parameters, _count)


def webhooks(
    *, states: Sequence[str], run_id: str | None, user_id: str | None, limit: int
) -> Select[list[WebhookRow]]:
    """Newest first."""

    def answer(rows: Sequence[Row], mapper: Mapper) -> list[WebhookRow]:
        return readable("webhook of run", rows, lambda row: webhook_row(mapper(row)))

    where, parameters = _webhooks(states, user_id)
    where += (
        " AND (CAST(:run AS text) IS NULL OR run_id = :run) ORDER BY created_at DESC, run_id LIMIT :limit"
    )
    return Select(WEBHOOK_COLUMNS, "webhooks", where, {**parameters, "run": run_id, "limit": limit}, answer)


def _webhooks(states: Sequence[str], user_id: str | None) -> tuple[str, dict[str, object]]:
    if not states:
        return _OF_USER, {"user": user_id}
    condition, named = member_of("state", "state", states)
    return f"{_OF_USER} AND {condition}", {"user": user_id, **named}


def cron(cron_id: str, user_id: str | None) -> Select[CronRow | None]:
    def answer(rows: Sequence[Row], mapper: Mapper) -> CronRow | None:
        return cron_row(mapper(rows[0])) if rows else None

    parameters = {"cron": cron_id, "user": user_id}
    return Select(CRON_COLUMNS, "crons", f"cron_id = :cron AND {_OF_USER}", parameters, answer)


def assistant(assistant_id: str, user_id: str | None) -> Select[AssistantRow | None]:
    def answer(rows: Sequence[Row], mapper: Mapper) -> AssistantRow | None:
        return assistants.assistant_row(mapper(rows[0])) if rows else None

    parameters = {"assistant": assistant_id, "user": user_id}
    return Select(
        assistants.COLUMNS, "assistants", f"assistant_id = :assistant AND {_OF_USER}", parameters, answer
    )
