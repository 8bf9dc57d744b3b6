"""Reads of the waiting runs without a live home: which of them a worker may claim, and which none can."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing

from stores.claims import Claimable, ClaimableQuery, Unclaimed
from stores.sql.conditions import IN_FLIGHT, OPEN_STATUSES, QUEUED
from stores.sql.sqlite.codec import HOMELESS, IN_FLIGHT_RUNS, KNOWN
from stores.sql.sqlite.orphans import unknown_assistants

_PORTABLE = "status = 'pending' AND NOT holds_thread AND portable"
_USER = (
    f"SELECT COALESCE(user_id, '') FROM runs INDEXED BY runs_claimable WHERE {_PORTABLE}"
    " AND COALESCE(user_id, '') {bound} ORDER BY COALESCE(user_id, '') LIMIT 1"
)
_FIRST_USER, _NEXT_USER = _USER.format(bound=">= ''"), _USER.format(bound="> ?")
_DUE = "(not_before IS NULL OR not_before <= :now)"
_IS_NEXT = (
    f"owner_epoch IS NULL AND {_DUE} AND {HOMELESS} AND {KNOWN}"
    f" AND NOT EXISTS (SELECT 1 FROM {IN_FLIGHT_RUNS} WHERE thread_id = w.thread_id AND {IN_FLIGHT}"
    f" AND (holds_thread OR ({QUEUED} AND (seq < w.seq OR w.not_before IS NOT NULL))))"
)
_CLAIMABLE = (
    "SELECT thread_id, user_id, assistant_id FROM runs w INDEXED BY runs_claimable"
    f" WHERE {_PORTABLE} AND COALESCE(user_id, '') = :user AND {_IS_NEXT}"
    " AND assistant_id NOT IN (SELECT value FROM json_each(:assistants)) ORDER BY created_us, run_id"
)
_CHILDREN = (
    "SELECT thread_id, user_id, assistant_id FROM runs w INDEXED BY runs_children"
    " WHERE parent_run_id IN (SELECT run_id FROM runs INDEXED BY runs_owner"
    " WHERE owner_epoch = :epoch AND holds_thread)"
    f" AND parent_run_id IS NOT NULL AND status IN {OPEN_STATUSES} AND {_PORTABLE} AND {_IS_NEXT}"
    " ORDER BY created_us, run_id LIMIT :limit"
)


def claimable(cx: sqlite3.Connection, now: int, query: ClaimableQuery, epoch: int) -> list[Claimable]:
    """The rows of a user are read one by one, as far as they are returned: a queue may be long."""
    full = {user or "" for user in query.full_users}
    parameters = {"now": now, "epoch": epoch, "assistants": json.dumps(query.full_assistants)}
    with ExitStack() as stack:
        first, rest = list[Claimable](), list[Iterator[Claimable]]()
        for user in _users_in_turn(cx, query.after or ""):
            if user in full:
                continue
            rows = stack.enter_context(closing(cx.execute(_CLAIMABLE, {**parameters, "user": user})))
            runs = (Claimable(*row) for row in rows)
            if (oldest := next(runs, None)) is not None:
                first.append(oldest)
                rest.append(runs)
            if len(first) == query.limit:
                return first
        return _further(first, rest, query.limit)


def claimable_children(cx: sqlite3.Connection, now: int, limit: int, epoch: int) -> list[Claimable]:
    rows = cx.execute(_CHILDREN, {"now": now, "epoch": epoch, "limit": limit})
    return [Claimable(*row) for row in rows]


def _further(chosen: list[Claimable], users: list[Iterator[Claimable]], limit: int) -> list[Claimable]:
    """Adds the second run of each user, then the third one, and so on."""
    while users and len(chosen) < limit:
        more = [(run, runs) for runs in users if (run := next(runs, None)) is not None]
        chosen += [run for run, _ in more]
        users = [runs for _, runs in more]
    return chosen[:limit]


def _users_in_turn(cx: sqlite3.Connection, after: str) -> Iterator[str]:
    """Users with waiting portable runs, '' = none: those behind `after`, then the others. From one to the
    next by index, however many runs wait."""
    user = _user(cx, after)
    while user is not None:
        yield user
        user = _user(cx, user)
    user = _user(cx, None)
    while user is not None and user <= after:
        yield user
        user = _user(cx, user)


def _user(cx: sqlite3.Connection, after: str | None) -> str | None:
    row = (cx.execute(_FIRST_USER) if after is None else cx.execute(_NEXT_USER, (after,))).fetchone()
    return None if row is None else row[0]


_UNCLAIMED = (
    "SELECT count(*), min(MAX(updated_at, COALESCE(not_before, 0))) FROM runs INDEXED BY runs_of_assistant"
    f" WHERE COALESCE(assistant_id, '') = :assistant AND {_PORTABLE} AND owner_epoch IS NULL AND {_DUE}"
    f" AND {HOMELESS}"
)


def unclaimed(cx: sqlite3.Connection, now: int) -> list[Unclaimed]:
    """By assistant: runs that no live worker can claim. A draining worker claims none."""
    counted = list[Unclaimed]()
    for assistant in unknown_assistants(cx, workers="state = 'live'"):
        runs, since = cx.execute(_UNCLAIMED, {"assistant": assistant, "now": now}).fetchone()
        if runs:
            counted.append(Unclaimed(assistant or None, runs, since))
    return counted
