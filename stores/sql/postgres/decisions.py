"""decide, withdraw, standing: fix a run's outcome, once, for ever. See functions/2_decisions.sql."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from stores.rows import Decision
from stores.sql.codec import DECISION_COLUMNS
from stores.sql.postgres.calls import BatchFunction, Call, Function, Query, Rows, record_of
from stores.sql.postgres.codec import STANDING, plain, text
from stores.sql.postgres.codec import standing as _standing
from stores.states import TERMINAL, CancelAction, Cause, RunStatus

S = TypeVar("S")

_DECIDED = f"won, children, {STANDING}"
_DECIDE = BatchFunction("decide", "deciding", _DECIDED)
_BRIEFLY = BatchFunction("decide_briefly", "deciding", _DECIDED)
_WITHDRAW = Function("withdraw", ("text", "bigint", "bigint"), _DECIDED)
_STANDS = Query(f"SELECT {DECISION_COLUMNS} FROM rc.runs WHERE run_id = $1")


def decide(
    now: int | None,
    run_id: str,
    status: RunStatus,
    *,
    action: CancelAction,
    cause: Cause,
    reason: str | None,
    actor: str | None,
    error: str | None,
    while_waiting: bool = False,
    home: int | None = None,
) -> Call[Decision | None]:
    if status not in TERMINAL:
        raise ValueError(f"{status} is no outcome")
    record = record_of(
        run_id=run_id,
        status=status.value,
        action=action.value,
        cause=cause.value,
        reason=text(reason),
        actor=text(actor),
        error=text(error),
        while_waiting=while_waiting,
        home=home,
        now=now,
    )
    requested = (status, action, cause, plain(text(reason)), plain(text(actor)))

    def again(rows: Rows) -> Decision | None:
        """The standing decision is the requested one: the attempt whose answer was lost has decided it."""
        decision = _decided(rows)
        if decision is None or _terms(decision) != requested:
            return decision
        return decision._replace(won=True)

    return Call(_DECIDE, (record,), _decided, run_id, alone=False, again=again)


def _terms(decision: Decision) -> tuple[object, ...]:
    """By which a decision is recognised: those of a request are compared with them."""
    return decision.status, decision.action, decision.cause, decision.reason, decision.actor


def briefly(call: Call[S]) -> Call[S]:
    """The decision, in a variant that fails soon instead of waiting for a lock for long."""
    return replace(call, statement=_BRIEFLY)


def withdraw(now: int | None, run_id: str, epoch: int) -> Call[Decision | None]:
    return Call(_WITHDRAW, (run_id, epoch, now), _decided)


def _decided(rows: Rows) -> Decision | None:
    won, children, *stands = rows[0]
    return None if stands[0] is None else _standing(stands, won=won, children=children)


def standing(run_id: str) -> Call[Decision | None]:
    return Call(_STANDS, (run_id,), lambda rows: _standing(rows[0]) if rows else None)
