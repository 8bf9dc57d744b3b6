"""Runs as clients see them: with the shown status, without those that were rolled back."""

from __future__ import annotations

import json
from typing import Any

from stores.catalogue import Heavy
from stores.errors import ConflictError, RunNotFound, ThreadNotFound
from stores.pages import Page
from stores.rows import RunRow
from stores.sql.codec import OPEN_STATUSES, SHOWN_OPEN
from stores.sql.postgres import pages
from stores.sql.postgres.calls import Call, Function, Query, Rows
from stores.sql.postgres.codec import RUN_COLUMNS, run_columns, run_of, run_of_json
from stores.sql.postgres.conditions import IN_FLIGHT
from stores.sql.readable import readable

_STOPPING = (
    f"(status NOT IN {OPEN_STATUSES} AND settled_at IS NULL AND (holds_thread OR owner_epoch IS NOT NULL))"
)
_ROLLED_BACK = (
    "(COALESCE(cancel_action, '') = 'rollback' AND COALESCE(rollback_state, '') <> 'failed'"
    f" AND status NOT IN {OPEN_STATUSES} AND NOT {_STOPPING})"
)
_SHOWN = (
    f"CASE WHEN {_STOPPING} THEN 'running' WHEN COALESCE(rollback_state, '') = 'failed' THEN 'error'"
    " ELSE status END"
)
"""The same conditions as `RunRow.stopping`, `.rolled_back` and `.shown_status`."""

_RUN = Query(
    f"SELECT {RUN_COLUMNS} FROM rc.runs WHERE run_id = $1 AND kind = 'run' AND NOT {_ROLLED_BACK}"
    " AND ($2::text IS NULL OR thread_id = $2) AND ($3::text IS NULL OR user_id = $3)"
)


def run(run_id: str, thread_id: str | None, user_id: str | None) -> Call[RunRow | None]:
    return Call(_RUN, (run_id, thread_id, user_id), lambda rows: run_of(rows[0]) if rows else None)


_OF_KEY = Query(
    "SELECT thread_id FROM rc.runs WHERE idempotency_key = $1 AND COALESCE(user_id, '') = COALESCE($2, '')"
    " ORDER BY run_id LIMIT 1"
)


def thread_of_key(key: str, user_id: str | None) -> Call[str | None]:
    return Call(_OF_KEY, (key, user_id), lambda rows: rows[0][0] if rows else None)


_UNSETTLED = (
    f"run_id IN (SELECT run_id FROM rc.runs WHERE thread_id = $1 AND {IN_FLIGHT} UNION ALL"
    " SELECT run_id FROM rc.runs"
    " WHERE thread_id = $1 AND NOT holds_thread AND owner_epoch IS NOT NULL AND settled_at IS NULL)"
)
"""Runs that are shown as pending or running have not settled: they are read without the thread's history."""


_TEXTS: dict[Heavy, tuple[str, ...]] = {
    "kwargs": ("kwargs",),
    "result": ("result",),
    "rollback_ref": ("rollback_ref", "saved_values", "saved_interrupts"),
}
"""The columns of a run that may be large, by the field that contains them."""


def thread_runs(
    thread_id: str,
    *,
    statuses: tuple[str, ...],
    limit: int,
    offset: int,
    user_id: str | None,
    without: frozenset[Heavy] = frozenset(),
    max_bytes: int | None = None,
) -> Call[Page[RunRow]]:
    """The thread and its page in one statement: the empty page of an existing thread is one row of nulls."""
    where, args = _narrowed(statuses, user_id, [thread_id])
    mine = "" if user_id is None else " AND t.user_id = $2"
    of_thread = _UNSETTLED if statuses and SHOWN_OPEN.issuperset(statuses) else "thread_id = $1"
    by = "created_us DESC NULLS LAST, run_id"
    page = (
        f"FROM rc.runs WHERE {of_thread}{where} AND NOT {_ROLLED_BACK} ORDER BY {by}"
        f" LIMIT ${len(args) + 1} OFFSET ${len(args) + 2}"
    )
    args += [limit, offset]
    if max_bytes is None:
        page = f"SELECT {run_columns(without)}, 0 AS total {page}"
    else:
        args.append(max_bytes)
        texts = ["metadata", *(name for of, names in _TEXTS.items() if of not in without for name in names)]
        page = (
            f"SELECT {run_columns(without)}, total FROM (SELECT *, {pages.sizes(texts, by)}"
            f" FROM (SELECT * {page}) selected) sized WHERE {pages.within(f'${len(args)}')} ORDER BY {by}"
        )
    query = Query(
        f"SELECT page.* FROM rc.threads t LEFT JOIN LATERAL ({page}) page ON true"
        f" WHERE t.thread_id = $1{mine}"
    )

    def answer(rows: Rows) -> Page[RunRow]:
        if not rows:
            raise ThreadNotFound(thread_id)
        return pages.page("run", [row for row in rows if row[0] is not None], run_of)

    return Call(query, tuple(args), answer)


def inflight_runs(
    *, statuses: tuple[str, ...], thread_id: str | None, user_id: str | None, after: str, limit: int
) -> Call[list[RunRow]]:
    where, args = _narrowed(statuses, user_id, [])
    if thread_id is not None:
        args.append(thread_id)
        where += f" AND thread_id = ${len(args)}"
    args += [after, limit]
    query = Query(
        f"SELECT {RUN_COLUMNS} FROM rc.runs WHERE {IN_FLIGHT}{where} AND run_id > ${len(args) - 1}"
        f" ORDER BY run_id LIMIT ${len(args)}"
    )
    return Call(query, tuple(args), lambda rows: readable("run", rows, run_of))


def _narrowed(statuses: tuple[str, ...], user_id: str | None, args: list[Any]) -> tuple[str, list[Any]]:
    where = " AND kind = 'run'"
    if user_id is not None:
        args.append(user_id)
        where += f" AND user_id = ${len(args)}"
    if statuses:
        args.append(list(statuses))
        where += f" AND {_SHOWN} = ANY (${len(args)}::text[])"
    return where, args


_DELETE = Function("delete_run", ("text", "text", "text"), "reply, thread_id, was")


def delete_run(now: int | None, run_id: str, thread_id: str | None, user_id: str | None) -> Call[RunRow]:  # noqa: ARG001 - every transaction gets a clock
    def answer(rows: Rows) -> RunRow:
        reply, thread, was = rows[0]
        if reply == "not found":
            raise RunNotFound(run_id)
        if reply == "in flight":
            raise ConflictError(thread, run_id)
        return run_of_json(json.loads(was))

    return Call(_DELETE, (run_id, thread_id, user_id), answer)
