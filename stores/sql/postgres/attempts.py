"""Further attempts of a run whose worker has died or drains. See functions/e_attempts.sql."""

from __future__ import annotations

from stores.rows import Decision, Orphan, Ownership
from stores.sql.codec import DECISION_COLUMNS
from stores.sql.postgres.calls import Call, Function, Query, Rows
from stores.sql.postgres.codec import standing
from stores.sql.postgres.workers import Orphaned, readable_ref
from stores.states import OPEN, RunStatus

_HAND_OVER = Function("hand_over", ("text", "bigint", "bigint", "bigint"), DECISION_COLUMNS)


def hand_over(now: int | None, own: Ownership) -> Call[Decision | None]:
    args = (own.run_id, own.epoch, own.fence, now)
    return Call(_HAND_OVER, args, lambda rows: standing(rows[0]) if rows else None)


_ADOPT = Function("adopt_attempt", ("text", "text", "bigint", "bigint", "bigint"), "status, fence, attempt")


def adopt(now: int | None, run: Orphaned, by: int) -> Call[Orphan | None]:
    """None where another worker was faster, or `by` executes its assistant no more. If the answer of an
    earlier call was lost, the next sweep returns the run: see `given_before`."""

    def answer(rows: Rows) -> Orphan | None:
        status, fence, attempt = rows[0]
        if fence is None:
            return None
        own = Ownership(run.run_id, run.thread_id, by, fence)
        ref = None if run.ref is None else run.ref[0]
        return Orphan(
            run.run_id, run.thread_id, RunStatus.stored(status), run.epoch, own, ref, attempt=attempt
        )

    return Call(_ADOPT, (run.run_id, run.thread_id, run.epoch, by, now), answer)


_GIVEN = Query(
    "SELECT run_id, thread_id, status, fence, attempt, rollback_ref, saved, saved_values, saved_interrupts"
    " FROM rc.runs WHERE owner_epoch = $1 AND holds_thread AND stopped_at IS NOT NULL"
    " AND COALESCE(rollback_state, '') NOT LIKE 'adopted %'"
    " AND EXISTS (SELECT FROM rc.workers WHERE epoch = $1 AND state = 'live')"
)


def given_before(by: int) -> Call[list[Orphan]]:
    """What `by` was given and has not begun: the first answer may be lost. Includes runs that were decided
    since: only their owner settles them."""

    def answer(rows: Rows) -> list[Orphan]:
        given: list[Orphan] = []
        for run_id, thread_id, text, fence, attempt, *kept in rows:
            own, status = Ownership(run_id, thread_id, by, fence), RunStatus.stored(text)
            ref = readable_ref(*kept)
            given.append(
                Orphan(
                    run_id,
                    thread_id,
                    status,
                    None,
                    own,
                    None if ref is None else ref[0],
                    decided=status not in OPEN,
                    attempt=attempt,
                )
            )
        return given

    return Call(_GIVEN, (by,), answer)
