"""Runs as clients see them: with the shown status, without those that were rolled back."""

from __future__ import annotations

import json

from stores.catalogue import Heavy
from stores.errors import ConflictError, RunNotFound, ThreadNotFound
from stores.pages import Page
from stores.rows import RunRow
from stores.sql.codec import SHOWN_OPEN
from stores.sql.conditions import IN_FLIGHT, ROLLED_BACK
from stores.sql.postgres import pages
from stores.sql.postgres.calls import Call, Function, Rows
from stores.sql.postgres.codec import run_columns, run_of, run_of_json
from stores.sql.postgres.selecting import bound
from stores.sql.reads import narrowed

_UNSETTLED = (
    f"run_id IN (SELECT run_id FROM rc.runs WHERE thread_id = :thread AND {IN_FLIGHT} UNION ALL"
    " SELECT run_id FROM rc.runs"
    " WHERE thread_id = :thread AND NOT holds_thread AND owner_epoch IS NOT NULL AND settled_at IS NULL)"
)
"""Runs that are shown as pending or running have not settled: they are read without the thread's history."""


_TEXTS: dict[Heavy, tuple[str, ...]] = {
    "kwargs": ("kwargs",),
    "result": ("result",),
    "extra": ("extra",),
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
    where, parameters = narrowed(statuses, user_id)
    mine = "" if user_id is None else " AND t.user_id = :user"
    of_thread = _UNSETTLED if statuses and SHOWN_OPEN.issuperset(statuses) else "thread_id = :thread"
    by = "created_us DESC NULLS LAST, run_id"
    page = (
        f"FROM rc.runs WHERE {of_thread} AND {where} AND NOT {ROLLED_BACK} ORDER BY {by}"
        " LIMIT :limit OFFSET :offset"
    )
    if max_bytes is None:
        page = f"SELECT {run_columns(without)}, 0 AS total {page}"
    else:
        texts = ["metadata", *(name for of, names in _TEXTS.items() if of not in without for name in names)]
        page = (
            f"SELECT {run_columns(without)}, total FROM (SELECT *, {pages.sizes(texts, by)}"
            f" FROM (SELECT * {page}) selected) sized WHERE {pages.within(':max_bytes')} ORDER BY {by}"
        )
    sql = (
        f"SELECT page.* FROM rc.threads t LEFT JOIN LATERAL ({page}) page ON true"
        f" WHERE t.thread_id = :thread{mine}"
    )
    parameters |= {"thread": thread_id, "limit": limit, "offset": offset, "max_bytes": max_bytes}

    def answer(rows: Rows) -> Page[RunRow]:
        if not rows:
            raise ThreadNotFound(thread_id)
        return pages.page("run", [row for row in rows if row[0] is not None], run_of)

    return Call(*bound(sql, parameters), answer)


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
