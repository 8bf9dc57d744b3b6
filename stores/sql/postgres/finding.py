"""Searches of operators: runs, and ids by their prefix. See `stores.finding`."""

from __future__ import annotations

from stores.finding import ListPosition, RunQuery
from stores.rows import RunRow
from stores.sql.codec import OPEN_STATUSES, dumps
from stores.sql.conditions import IN_FLIGHT
from stores.sql.postgres.calls import Call, Query, Rows
from stores.sql.postgres.codec import run_columns, run_of
from stores.sql.readable import readable


def find_runs(
    query: RunQuery, user_id: str | None, behind: ListPosition | None, limit: int
) -> Call[list[RunRow]]:
    where, args = _narrowed(query, user_id)
    created = "created_us"
    if query.in_flight or query.silent_since is not None:
        where.append(IN_FLIGHT)
        created = "(created_us + 0)"  # the index `runs_recent` would lead through the whole history
    if behind is not None:
        args += behind
        at, run = f"${len(args) - 1}", f"${len(args)}"
        where.append(f"created_us <= {at} AND (created_us < {at} OR run_id > {run})")
    args.append(limit)
    statement = Query(
        f"SELECT {run_columns(())} FROM rc.runs WHERE {' AND '.join(where)}"
        f" ORDER BY {created} DESC NULLS LAST, run_id LIMIT ${len(args)}"
    )
    return Call(statement, tuple(args), lambda rows: readable("run", rows, run_of))


def open_run_ids(query: RunQuery, user_id: str | None, limit: int) -> Call[list[str]]:
    where, args = _narrowed(query, user_id)
    where += [IN_FLIGHT, f"status IN {OPEN_STATUSES}"]
    args.append(limit)
    statement = Query(
        f"SELECT run_id FROM rc.runs WHERE {' AND '.join(where)} ORDER BY run_id LIMIT ${len(args)}"
    )
    return Call(statement, tuple(args), _ids)


def _ids(rows: Rows) -> list[str]:
    return [row[0] for row in rows]


def _narrowed(query: RunQuery, user_id: str | None) -> tuple[list[str], list[object]]:
    """The conditions and their parameters."""
    where, args = ["kind = 'run'"], list[object]()

    def given(condition: str, value: object) -> None:
        if value is not None:
            args.append(value)
            where.append(condition.replace("?", f"${len(args)}"))

    given("thread_id = ?", query.thread_id)
    given("user_id = ?", user_id)
    given("assistant_id = ?", query.assistant_id)
    given("created_us >= ?", query.created_from)
    given("created_us < ?", query.created_before)
    given(_SILENT, query.silent_since)
    given("status = ANY (?::text[])", list(query.statuses) or None)
    given("rc.as_jsonb(metadata) @> rc.as_jsonb(?)", dumps(query.metadata) if query.metadata else None)
    return where, args


_SILENT = (
    "holds_thread AND updated_at <= ? AND NOT EXISTS (SELECT FROM rc.threads t"
    " WHERE t.thread_id = runs.thread_id AND t.state_updated_at > ?)"
)
