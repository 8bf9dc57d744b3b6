"""Projections: changes of runs, queued by triggers, delivered by one worker at a time under a claim. See
functions/f_projections.sql."""

from __future__ import annotations

from collections.abc import Sequence

from stores.errors import EpochDead
from stores.projections import FailedChange, RunChange
from stores.rows import RunRow
from stores.spec import PRIVATE
from stores.sql.columns import Columns
from stores.sql.postgres.calls import Call, Function, Query, Rows, nothing, scalar
from stores.sql.postgres.codec import RUN_COLUMNS, plain, run_of, text
from stores.sql.projections import PAGE
from stores.sql.readable import readable

_ADD = Function("add_projection", ("text", "bigint"))


def add(now: int | None, name: str) -> Call[None]:
    return Call(_ADD, (name, now), nothing)


_REMOVE = Function("remove_projection", ("text",))


def remove(now: int | None, name: str) -> Call[bool]:
    del now
    return Call(_REMOVE, (name,), scalar)


_NEXT = Query(
    "SELECT CASE WHEN p.filled_to IS NOT NULL OR EXISTS (SELECT FROM rc.run_changes c WHERE c.projection = $1"
    " AND c.thread_id NOT IN (SELECT f.thread_id FROM rc.run_changes f WHERE f.projection = $1"
    " AND f.next_at > (SELECT rc.clock($2)))) THEN 0::float8"
    " ELSE (SELECT GREATEST(0, next_at - rc.clock($2)) / 1e6::float8 FROM rc.run_changes"
    " WHERE projection = $1 AND next_at IS NOT NULL ORDER BY next_at LIMIT 1) END"
    " FROM rc.projections p WHERE p.name = $1"
)


def next_due(name: str, now: int | None) -> Call[float | None]:
    return Call(_NEXT, (name, now), lambda rows: rows[0][0] if rows else None)


_CHANGE = ("seq", "run_id", "thread_id", "at", "what", "attempts")
_RUN = ", ".join(
    "NULL" if name in PRIVATE else f"(run).{name}" for name in map(str.strip, RUN_COLUMNS.split(","))
)
_CLAIM = Function(
    "claim_changes",
    ("text", "bigint", "bigint", "bigint", "bigint", "bigint"),
    f"reply, {', '.join(_CHANGE)}, {_RUN}",
)


def claim(now: int | None, name: str, epoch: int, lease: int, *, limit: int) -> Call[list[RunChange] | None]:
    def answer(rows: Rows) -> list[RunChange] | None:
        reply = rows[0][0]
        if reply == "dead":
            raise EpochDead(epoch)
        return None if reply == "taken" else [_change(row) for row in rows[1:]]

    return Call(_CLAIM, (name, epoch, lease, limit, PAGE, now), answer)


def _change(row: Columns) -> RunChange:
    seq, run_id, thread_id, at, what, attempts = row[1 : 1 + len(_CHANGE)]
    run = row[1 + len(_CHANGE) :]
    return RunChange(seq, plain(run_id), plain(thread_id), at, what, attempts + 1, _run(run))


def _run(columns: Columns) -> RunRow | None:
    return None if columns[0] is None else next(iter(readable("run", [columns], run_of)), None)


_REPORT = Function(
    "report_changes", ("text", "bigint", "bigint[]", "bigint[]", "text[]", "bigint[]", "bigint")
)


def report(
    now: int | None, name: str, epoch: int, delivered: Sequence[int], *, failed: Sequence[FailedChange]
) -> Call[None]:
    args = (
        name,
        epoch,
        list(delivered),
        [one.seq for one in failed],
        [text(one.error) for one in failed],
        [one.retry_in for one in failed],
        now,
    )
    return Call(_REPORT, args, nothing)
