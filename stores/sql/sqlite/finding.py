"""Searches of operators: runs, and ids by their prefix. See `stores.finding`."""

from __future__ import annotations

import sqlite3

from stores.finding import ListPosition, RunQuery
from stores.json_values import JsonObject
from stores.rows import RunRow
from stores.sql.codec import OPEN_STATUSES, dumps, run_columns, run_row
from stores.sql.conditions import IN_FLIGHT
from stores.sql.readable import readable
from stores.sql.sqlite.codec import IN_FLIGHT_RUNS, IN_FLIGHT_RUNS_BY_ID


def find_runs(
    cx: sqlite3.Connection, query: RunQuery, user_id: str | None, behind: ListPosition | None, limit: int
) -> list[RunRow]:
    where, args = _narrowed(query, user_id)
    unsettled = query.in_flight or query.silent_since is not None
    if unsettled:
        where.append(IN_FLIGHT)
    if behind is not None:
        where.append("created_us <= :behind AND (created_us < :behind OR run_id > :behind_run)")
        args.update(behind=behind.created_us, behind_run=behind.run_id)
    rows = cx.execute(
        f"SELECT {run_columns(())} FROM {IN_FLIGHT_RUNS if unsettled else 'runs'} WHERE {' AND '.join(where)}"
        " ORDER BY created_us DESC, run_id LIMIT :limit",
        {**args, "limit": limit},
    )
    return readable("run", rows, run_row)


def open_run_ids(cx: sqlite3.Connection, query: RunQuery, user_id: str | None, limit: int) -> list[str]:
    where, args = _narrowed(query, user_id)
    where += [IN_FLIGHT, f"status IN {OPEN_STATUSES}"]
    source = IN_FLIGHT_RUNS_BY_ID if query.thread_id is None else IN_FLIGHT_RUNS
    rows = cx.execute(
        f"SELECT run_id FROM {source} WHERE {' AND '.join(where)} ORDER BY run_id LIMIT :limit",
        {**args, "limit": limit},
    )
    return [run_id for (run_id,) in rows]


def _narrowed(query: RunQuery, user_id: str | None) -> tuple[list[str], JsonObject]:
    """The conditions and their parameters. Expensive conditions come last."""
    where, args = ["kind = 'run'"], dict[str, object]()

    def given(condition: str, name: str, value: object) -> None:
        if value is not None:
            where.append(condition)
            args[name] = value

    given("thread_id = :thread", "thread", query.thread_id)
    given("user_id = :user", "user", user_id)
    given("assistant_id = :assistant", "assistant", query.assistant_id)
    given("created_us >= :created_from", "created_from", query.created_from)
    given("created_us < :created_before", "created_before", query.created_before)
    given(_SILENT, "since", query.silent_since)
    if query.statuses:
        named = {f"status{at}": status for at, status in enumerate(query.statuses)}
        where.append(f"status IN ({', '.join(f':{name}' for name in named)})")
        args.update(named)
    if query.metadata:
        given("json_contains(metadata, :metadata)", "metadata", dumps(query.metadata))
    return where, args


_SILENT = (
    "holds_thread AND updated_at <= :since AND NOT EXISTS (SELECT 1 FROM threads t"
    " WHERE t.thread_id = runs.thread_id AND t.state_updated_at > :since)"
)
