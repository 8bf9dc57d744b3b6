"""The runs in flight without a live worker. Only these are read, not all that are in flight."""

from __future__ import annotations

import json
import sqlite3
from typing import NamedTuple

from stores.sql.codec import OPEN_STATUSES
from stores.sql.sqlite.codec import ALIVE, GONE, HOMELESS
from stores.states import OPEN, CancelAction

PATIENCE = 600_000_000
"""us. A portable run without a home, whose time has come, waits so long for a worker that knows its assistant
(a deployment may be down in between); then it is ended, because its thread waits with it."""


DEATHS = 3
"""A run ends with the third worker that dies before it has started the run, which may be what kills them."""


class Orphaned(NamedTuple):
    run_id: str
    thread_id: str
    status: str
    epoch: int | None
    cancel_action: str | None
    started_at: int | None
    rollback_ref: str | None
    rollback_state: str
    holds_thread: int
    assistant_id: str | None
    portable: int
    retries: int
    stopped_at: int | None
    attempt: int
    deaths: int
    """How many of its workers have died before they started it."""

    @property
    def decided(self) -> bool:
        return self.status not in OPEN

    @property
    def undo(self) -> bool:
        """A rollback was decided and is not done yet."""
        return bool(
            self.decided
            and self.holds_thread
            and self.cancel_action == CancelAction.rollback
            and self.started_at is not None
        )

    @property
    def unclaimed(self) -> bool:
        """It has waited in a queue for a worker that executes its assistant."""
        return bool(self.status == "pending" and not self.holds_thread and self.portable)

    @property
    def ordinal(self) -> str:
        """The beginning of its error: which attempt has ended, if it is not the first one."""
        if self.deaths >= DEATHS:
            return f"{self.deaths} workers have died before they started it. "
        return "" if self.attempt == 1 else f"Attempt {self.attempt} of {self.attempt + self.retries}: "

    @property
    def may_continue(self) -> bool:
        """It may have a further attempt: its worker has handed it over, it has retries left, or it has not
        started, so that nothing is repeated."""
        if self.decided or not (self.holds_thread and self.portable):
            return False
        if self.status == "pending":
            return self.deaths < DEATHS
        return self.stopped_at is not None or self.retries > 0


# Workers that have signed off have fenced themselves.
_DEATHS = (
    "CASE WHEN status = 'pending' AND holds_thread THEN"
    " (SELECT COUNT(DISTINCT w.epoch) FROM transitions t JOIN workers w USING (epoch)"
    " WHERE t.run_id = runs.run_id AND t.holds_thread AND w.state = 'dead' AND w.fenced_by <> w.epoch)"
    " ELSE 0 END"
)
_COLUMNS = (
    "run_id, thread_id, status, COALESCE(owner_epoch, home_epoch), cancel_action, started_at, rollback_ref,"
    " COALESCE(rollback_state, ''), holds_thread, assistant_id, portable, retries, stopped_at, attempt,"
    f" {_DEATHS}"
)
_UNOWNED = (
    "owner_epoch IS NULL"
    " AND (status = 'running' OR status = 'pending' AND home_epoch IS NULL AND NOT portable)"
)
_PORTABLE = "status = 'pending' AND NOT holds_thread AND portable"
_OF_EPOCHS = (
    "SELECT run_id FROM gone CROSS JOIN runs INDEXED BY runs_owner"
    " WHERE owner_epoch > after AND owner_epoch < before AND holds_thread"
    " UNION ALL SELECT run_id FROM gone CROSS JOIN runs INDEXED BY runs_beside"
    " WHERE owner_epoch > after AND owner_epoch < before AND NOT holds_thread AND owner_epoch IS NOT NULL"
    f" AND settled_at IS NULL AND status IN {OPEN_STATUSES}"
    " UNION ALL SELECT run_id FROM gone CROSS JOIN runs INDEXED BY runs_home"
    " WHERE home_epoch > after AND home_epoch < before AND status = 'pending' AND NOT holds_thread"
    " AND owner_epoch IS NULL AND NOT portable"
    " UNION ALL SELECT run_id FROM gone CROSS JOIN runs INDEXED BY runs_unowned"
    f" WHERE {_UNOWNED} AND home_epoch > after AND home_epoch < before"
)
_UNCLAIMED = (
    f"SELECT run_id FROM runs INDEXED BY runs_unowned WHERE {_UNOWNED} AND home_epoch IS NULL"
    " UNION ALL SELECT run_id FROM json_each(:unknown) CROSS JOIN runs INDEXED BY runs_of_assistant"
    f" WHERE COALESCE(assistant_id, '') = value AND {_PORTABLE} AND owner_epoch IS NULL AND {HOMELESS}"
    f" AND MAX(updated_at, COALESCE(not_before, 0)) < :now - {PATIENCE}"
)
_FOUND = (
    f" SELECT {_COLUMNS} FROM orphans CROSS JOIN runs USING (run_id)"
    " WHERE :before IS NULL OR created_us < :before"
    " ORDER BY parent_run_id IS NOT NULL, created_us, run_id"
)
_HANDED_OVER = (
    f"SELECT {_COLUMNS} FROM runs INDEXED BY runs_handed_over WHERE holds_thread AND stopped_at IS NOT NULL"
    f" AND status IN {OPEN_STATUSES} AND portable"
    " AND owner_epoch IN (SELECT epoch FROM workers WHERE state = 'draining')"
    " ORDER BY created_us, run_id"
)
_ALL = f"WITH {GONE}, orphans AS ({_OF_EPOCHS} UNION ALL {_UNCLAIMED}){_FOUND}"
_ONE = (
    f"WITH gone (after, before) AS (SELECT :only - 1, :only + 1 WHERE :only NOT IN {ALIVE}),"
    f" orphans AS ({_OF_EPOCHS}){_FOUND}"
)


def orphaned(cx: sqlite3.Connection, now: int, *, before: int | None, only: int | None) -> list[Orphaned]:
    """`only`: those of one epoch. Parents first: they cancel their children."""
    if only is not None:
        rows = cx.execute(_ONE, {"before": before, "only": only})
    else:
        unknown = json.dumps(unknown_assistants(cx, workers="state <> 'dead'"))
        rows = cx.execute(_ALL, {"before": before, "now": now, "unknown": unknown})
    return [Orphaned(*row) for row in rows.fetchall()]


def handed_over(cx: sqlite3.Connection) -> list[Orphaned]:
    """Undecided runs that draining workers have handed over: their owners live, but continue them no more."""
    return [Orphaned(*row) for row in cx.execute(_HANDED_OVER).fetchall()]


def unknown_assistants(cx: sqlite3.Connection, *, workers: str) -> list[str]:
    """Assistants of waiting portable runs that none of these workers (a condition) knows; "" = none. From one
    to the next by index, however many runs wait."""
    unknown, named = list[str](), _next_assistant(cx, None)
    while named is not None:
        known = cx.execute(
            f"SELECT 1 FROM workers, json_each(assistants) WHERE {workers} AND value = ? LIMIT 1",
            (named,),
        )
        if known.fetchone() is None:
            unknown.append(named)
        named = _next_assistant(cx, named)
    return unknown


_FIRST = (
    f"SELECT COALESCE(assistant_id, '') FROM runs INDEXED BY runs_of_assistant WHERE {_PORTABLE}"
    " ORDER BY COALESCE(assistant_id, '') LIMIT 1"
)
_NEXT = _FIRST.replace(" ORDER BY", " AND COALESCE(assistant_id, '') > ? ORDER BY")


def _next_assistant(cx: sqlite3.Connection, after: str | None) -> str | None:
    row = (cx.execute(_FIRST) if after is None else cx.execute(_NEXT, (after,))).fetchone()
    return None if row is None else row[0]
