"""State of threads outside of this store. See `stores.thread_states` and functions/d_thread_states.sql."""

from __future__ import annotations

from collections.abc import Sequence

from stores.errors import StaleFence
from stores.rows import Ownership
from stores.sql.postgres.calls import Call, Function, Query, Rows, nothing
from stores.sql.postgres.codec import plain, text
from stores.thread_states import IN_STORE, RETRY_AFTER, RETRY_DOUBLINGS, RemovedState

_NOTE = Function("note_states", ("text", "text", "bigint", "bigint", "text[]"))


def note_states(now: int | None, own: Ownership, kinds: Sequence[str]) -> Call[None]:
    del now

    def answer(rows: Rows) -> None:
        if not rows[0][0]:
            raise StaleFence(own.thread_id, own.fence)

    noted = [text(kind) for kind in kinds if kind != IN_STORE]
    return Call(_NOTE, (own.run_id, own.thread_id, own.epoch, own.fence, noted), answer)


_CLAIM = Function(
    "claim_removed_states",
    ("text[]", "bigint", "bigint", "bigint", "bigint"),
    "thread_id, kind, fence, attempts",
)


def claim(now: int | None, kinds: Sequence[str], limit: int) -> Call[list[RemovedState]]:
    args = ([text(kind) for kind in kinds], limit, RETRY_AFTER, RETRY_DOUBLINGS, now)
    return Call(_CLAIM, args, lambda rows: sorted(_states(rows)))


_FORGET = Function("forget_removed_states", ("text[]", "text[]", "bigint[]"))


def forget(now: int | None, states: Sequence[RemovedState]) -> Call[None]:
    del now
    args = (
        [state.thread_id for state in states],
        [text(state.kind) for state in states],
        [state.fence for state in states],
    )
    return Call(_FORGET, args, nothing)


_REMOVED = Query(
    "SELECT thread_id, kind, removed_fence, attempts FROM rc.thread_states"
    " WHERE thread_id = $1 AND kind = $2 AND removed_fence IS NOT NULL"
)


def removed(thread_id: str, kind: str) -> Call[RemovedState | None]:
    return Call(_REMOVED, (thread_id, text(kind)), lambda rows: next(iter(_states(rows)), None))


def _states(rows: Rows) -> list[RemovedState]:
    return [
        RemovedState(thread_id, plain(kind), fence, attempts) for thread_id, kind, fence, attempts in rows
    ]
