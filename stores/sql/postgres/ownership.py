"""What an owner writes: start, save, finish, settle. See functions/4_ownership.sql."""

from __future__ import annotations

import json
from typing import cast

from stores.errors import StaleFence
from stores.json_values import JsonObject
from stores.rows import Claimed, Finish, Json, NextStart, Outcome, Ownership, Started
from stores.sql.codec import dumps, dumps_or_null, loads, running
from stores.sql.columns import Column, Columns
from stores.sql.postgres.calls import BatchFunction, Call, Function, Row, Rows, record_of, scalar
from stores.sql.postgres.codec import STANDING, standing, text
from stores.states import TERMINAL, CancelAction, RunStatus
from stores.thread_states import noted_kind

_STARTED = f"reply, home, vals, {STANDING}"
_START = BatchFunction("start", "starting", _STARTED)
_START_NOTED = Function("start_noted", ("json", "text"), _STARTED)


def start(now: int | None, own: Ownership, rollback_ref: Json) -> Call[Started | None]:
    saved, values, interrupts = _saved(rollback_ref)
    record = record_of(
        run_id=own.run_id,
        epoch=own.epoch,
        fence=own.fence,
        ref=dumps(rollback_ref),
        saved=saved,
        saved_values=values,
        saved_interrupts=interrupts,
        now=now,
    )

    def answer(rows: Rows) -> Started | None:
        reply, home, values, *stands = rows[0]
        if reply == "started":
            return Started(running(own, home), loads(values))
        return None if reply == "lost" else Started(standing(stands), loads(values))

    if (kind := noted_kind(rollback_ref)) is not None:
        return Call(_START_NOTED, (record, text(kind)), answer)
    return Call(_START, (record,), answer, own.run_id, alone=False)


def _saved(ref: Json) -> tuple[bool, str | None, str | None]:
    """What `restore` puts back; the caller that starts the run may know it already."""
    kept: JsonObject = cast("JsonObject", ref) if isinstance(ref, dict) else {}
    if "values" not in kept:
        return False, None, None
    return True, dumps_or_null(kept["values"]), dumps_or_null(kept.get("interrupts"))


_SAVE = Function("save", ("text", "text", "bigint", "bigint", "text", "boolean", "bigint"))


def save(now: int | None, own: Ownership, values: Json, *, last: bool = False) -> Call[None]:
    def answer(rows: Rows) -> None:
        if not rows[0][0]:
            raise StaleFence(own.thread_id, own.fence)

    return Call(_SAVE, (*_guard(own), dumps_or_null(values), last, now), answer)


_RESTORE = Function("restore", ("text", "text", "bigint", "bigint", "bigint"), "ok, vals")


def restore(now: int | None, own: Ownership) -> Call[Json]:
    def answer(rows: Rows) -> Json:
        ok, values = rows[0]
        if not ok:
            raise StaleFence(own.thread_id, own.fence)
        return loads(values)

    return Call(_RESTORE, (*_guard(own), now), answer)


_FINISH = BatchFunction("finish", "finishing", f"reply, children, next_home, {STANDING}")


def finish(
    now: int | None,
    own: Ownership,
    outcome: Outcome,
    *,
    hold: bool = False,
    following: NextStart | None = None,
) -> Call[Finish]:
    if outcome.status not in TERMINAL:
        raise ValueError(f"{outcome.status} is no outcome")
    record = record_of(
        run_id=own.run_id,
        thread_id=own.thread_id,
        epoch=own.epoch,
        fence=own.fence,
        hold=hold,
        status=outcome.status.value,
        error=text(outcome.error),
        result=dumps_or_null(outcome.result),
        values=dumps_or_null(outcome.values),
        paused=outcome.paused,
        interrupts=dumps_or_null(outcome.interrupts),
        delivered_at=outcome.delivered_at,
        stopped_at=outcome.stopped_at,
        log_end=outcome.log_end,
        following=None if following is None else following.run_id,
        following_ref=None if following is None else dumps(following.rollback_ref),
        now=now,
    )

    def answer(rows: Rows) -> Finish:
        finish = _finished(outcome, *rows[0])
        return finish if len(rows) == 1 else finish._replace(next_home=None, claimed=_passed_on(rows[1]))

    alone = outcome.status is not RunStatus.success or following is not None
    return Call(_FINISH, (record,), answer, own.thread_id, alone)


def _finished(
    outcome: Outcome, reply: str, children: str | None, home: int | None, *stands: Column
) -> Finish:
    if reply != "written":
        return _unwritten(reply, home, stands)
    # By the row and not by its writer: the first answer of this very call may be lost.
    won = stands[2] == outcome.status and stands[7] is None
    decision = standing(stands, won=won, children=children)
    return Finish(decision.status, next_home=home, decision=decision)


def _passed_on(row: Row) -> Claimed:
    reply, values, _, *stands = row
    decision = standing(stands, won=reply == "started")
    started = Started(decision, loads(None if values is None else json.loads(values)))
    return Claimed(decision.run_id, decision.fence, started)


_SETTLE = Function(
    "settle_run",
    ("text", "text", "bigint", "bigint", "text", "text", "text", "bigint", "bigint", "bigint", "bigint"),
    f"reply, next_home, {STANDING}",
)


def settle(now: int | None, own: Ownership, outcome: Outcome, rollback_state: str | None) -> Call[Finish]:
    args = (
        *_guard(own),
        text(outcome.error),
        dumps_or_null(outcome.values),
        rollback_state,
        outcome.delivered_at,
        outcome.stopped_at,
        outcome.log_end,
        now,
    )

    def answer(rows: Rows) -> Finish:
        reply, home, *stands = rows[0]
        if reply != "written":
            return _unwritten(reply, home, stands)
        decision = standing(stands)
        return Finish(decision.status, next_home=home, decision=decision)

    return Call(_SETTLE, args, answer)


def _unwritten(reply: str, home: int | None, stands: Columns) -> Finish:
    decision = None if stands[0] is None else standing(stands)
    if decision is None or reply == "lost":
        return Finish(decision.status if decision else None, lost=True, decision=decision)
    if decision.settled:  # repeated after an unknown outcome
        return Finish(decision.status, next_home=home, decision=decision)
    return Finish(decision.status, undo=decision.action is CancelAction.rollback, decision=decision)


_REFENCE = Function("refence", ("text", "text", "bigint", "bigint", "bigint"))


def refence(now: int | None, own: Ownership) -> Call[Ownership | None]:
    def answer(rows: Rows) -> Ownership | None:
        fence = scalar(rows)
        return None if fence is None else own._replace(fence=fence)

    return Call(_REFENCE, (*_guard(own), now), answer)


def _guard(own: Ownership) -> tuple[str, str, int, int]:
    return own.run_id, own.thread_id, own.epoch, own.fence
