"""Webhooks: written with the run, made due by a trigger when it settles, delivered under a lease."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from stores.errors import EpochDead
from stores.sql.codec import claimed_webhook, dumps, loads, storable
from stores.sql.columns import Columns
from stores.sql.readable import readable
from stores.sql.sqlite.codec import IN_JSON
from stores.sql.sqlite.guards import is_dead
from stores.webhooks import STOPPED, ClaimedWebhook, Shares, WebhookReport


def next_due(cx: sqlite3.Connection, now: int) -> float | None:
    """Seconds until the next one may be claimed, 0 where one may be now; None = nothing is due."""
    (when,) = cx.execute(
        "SELECT min(next_at) FROM webhooks INDEXED BY webhooks_due WHERE state = 'due'"
    ).fetchone()
    return None if when is None else max(0.0, (when - now) / 1e6)


_OLDEST = (
    "SELECT run_id FROM webhooks INDEXED BY webhooks_due"
    " WHERE state = 'due' AND next_at <= :now ORDER BY next_at, run_id LIMIT :limit"
)
_CLAIM = (
    "UPDATE webhooks SET attempts = attempts + 1, claimed_by = :epoch, next_at = :now + :lease"
    " WHERE run_id IN (SELECT value FROM json_each(:runs))"
    ' RETURNING run_id, thread_id, user_id, attempts, url, run, metadata, kwargs, "values", interrupts'
)


def claim(
    cx: sqlite3.Connection, now: int, epoch: int, lease: int, limit: int, *, shares: Shares | None
) -> list[ClaimedWebhook]:
    """Due webhooks, oldest first, or as users take turns: no other worker claims them for `lease` us. Raises
    EpochDead."""
    if is_dead(cx, epoch):
        raise EpochDead(epoch)
    if shares is None:
        runs = [run_id for (run_id,) in cx.execute(_OLDEST, {"now": now, "limit": limit})]
    else:
        runs = _in_turn(cx, limit, shares, now)
    parameters = {"epoch": epoch, "now": now, "lease": lease, "runs": dumps(runs)}
    return readable("webhook of run", cx.execute(_CLAIM, parameters).fetchall(), _claimed)


_ITS_DUE = "FROM webhooks INDEXED BY webhooks_due_of_user WHERE state = 'due' AND user_id"
_USERS = (
    f"WITH RECURSIVE users (user_id) AS (SELECT min(user_id) {_ITS_DUE} IS NOT NULL UNION ALL"
    f" SELECT (SELECT min(user_id) {_ITS_DUE} > users.user_id) FROM users WHERE user_id IS NOT NULL),"
    " oldest (user_id, run_id) AS (SELECT users.user_id,"
    f" (SELECT run_id {_ITS_DUE} = users.user_id ORDER BY next_at, run_id LIMIT 1)"
    " FROM users WHERE user_id IS NOT NULL)"
    " SELECT oldest.user_id, next_at, run_id FROM oldest JOIN webhooks USING (run_id) WHERE next_at <= :now"
)
"""Each user with a due webhook, and its oldest one. From user to user through the index, so that the number
of due webhooks of one user costs nothing."""
_OF_USER = f"SELECT next_at, run_id {_ITS_DUE} IS ? AND next_at <= ? ORDER BY next_at, run_id LIMIT ?"


def _in_turn(cx: sqlite3.Connection, limit: int, shares: Shares, now: int) -> list[str]:
    """Due webhooks, of users in the order of how many the claimer has of each; of each the oldest. See
    `Shares`."""
    asking = sorted(
        (shares.held_by(user_id), next_at, run_id, user_id)
        for user_id, next_at, run_id in cx.execute(_USERS, {"now": now})
        if shares.held_by(user_id) < shares.per_user
    )
    candidates = [
        (place, next_at, run_id)
        for place, (next_at, run_id) in enumerate(cx.execute(_OF_USER, (None, now, limit)))
    ]
    for held, _, _, user_id in asking[:limit]:  # the first of any other user comes after all of theirs
        rows = cx.execute(_OF_USER, (user_id, now, shares.per_user - held))
        candidates += ((place, next_at, run_id) for place, (next_at, run_id) in enumerate(rows, held))
    return [run_id for _, _, run_id in sorted(candidates)[:limit]]


def _claimed(row: Columns) -> ClaimedWebhook:
    return claimed_webhook(row, loads(row[5]))


_REPORT = (
    "UPDATE webhooks SET state = :state, attempts = attempts - :postponed,"
    " status_code = CASE WHEN :postponed THEN status_code ELSE :status_code END,"
    " error = CASE WHEN :postponed THEN error ELSE :error END,"
    " next_at = CASE WHEN :state = 'due' THEN :now + :retry_in END,"
    " ended_at = CASE WHEN :state <> 'due' THEN :now END,"
    " kwargs = CASE WHEN :state <> 'delivered' THEN kwargs END,"
    ' "values" = CASE WHEN :state <> \'delivered\' THEN "values" END'
    " WHERE run_id = :run AND state = 'due' AND attempts = :attempt RETURNING run_id"
)
"""A delivered webhook drops its large columns; a dead one keeps them, to be sent again."""


def report(cx: sqlite3.Connection, now: int, run_id: str, attempt: int, result: WebhookReport) -> bool:
    """How an attempt ended. False = another attempt has begun meanwhile: nothing is written."""
    row = cx.execute(
        _REPORT,
        {
            "run": run_id,
            "attempt": attempt,
            "state": result.state.value,
            "status_code": result.status_code,
            "error": storable(result.error),
            "retry_in": result.retry_in,
            "postponed": int(result.postponed),
            "now": now,
        },
    ).fetchone()
    return row is not None


def revive(cx: sqlite3.Connection, now: int, run_ids: Sequence[str] | None, user_id: str | None) -> list[str]:
    """Dead webhooks (None: all of them) become due again, with all their attempts; returns their runs. Those
    that were stopped before their run ended are left out: they have nothing to send."""
    where, ids = _among("state = 'dead' AND due_at IS NOT NULL AND (? IS NULL OR user_id = ?)", run_ids)
    rows = cx.execute(
        f"UPDATE webhooks SET state = 'due', attempts = 0, next_at = ?, ended_at = NULL WHERE {where}"
        " RETURNING run_id",
        (now, user_id, user_id, *ids),
    )
    return [run_id for (run_id,) in rows.fetchall()]


def stop(cx: sqlite3.Connection, now: int, run_ids: Sequence[str] | None, user_id: str | None) -> list[str]:
    """Waiting and due webhooks (None: all of them) become dead; returns their runs."""
    where, ids = _among("state IN ('waiting', 'due') AND (? IS NULL OR user_id = ?)", run_ids)
    rows = cx.execute(
        f"UPDATE webhooks SET state = 'dead', error = ?, next_at = NULL, ended_at = ? WHERE {where}"
        " RETURNING run_id",
        (STOPPED, now, user_id, user_id, *ids),
    )
    return [run_id for (run_id,) in rows.fetchall()]


def _among(condition: str, run_ids: Sequence[str] | None) -> tuple[str, tuple[str, ...]]:
    """Narrows the condition to these runs (None: does not); returns it with its last parameters."""
    return (condition, ()) if run_ids is None else (f"{condition} AND run_id {IN_JSON}", (dumps(run_ids),))
