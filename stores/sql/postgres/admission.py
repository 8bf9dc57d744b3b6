"""admit, insert, claim: how a run gets onto its thread. See functions/3_admission.sql."""

from __future__ import annotations

import json

from stores.errors import (
    ConflictError,
    CoordinatorError,
    CronFired,
    EpochDead,
    IdempotencyConflict,
    ParentEnded,
    QueueFull,
    RunNotFound,
    ThreadNotFound,
)
from stores.rows import Admission, Claimed, Limits, NewRun
from stores.sql.codec import dumps, dumps_opaque, dumps_or_null
from stores.sql.postgres.calls import BatchFunction, Call, Function, Query, Rows, record_of
from stores.sql.postgres.codec import decided_of_json, run_of_json, text
from stores.sql.postgres.conditions import HOMELESS, WAITING
from stores.times import stamp

_ADMIT = BatchFunction("admit", "admission", "said, about, holds, fence, seq, temporary, more")
_NO_LIMITS = Limits()


def admit(now: int | None, run: NewRun, epoch: int, limits: Limits) -> Call[Admission]:
    return _admission(run, epoch, limits, beside=False, now=now)


def insert(now: int | None, run: NewRun, epoch: int) -> Call[Admission]:
    return _admission(run, epoch, _NO_LIMITS, beside=True, now=now)


def _admission(run: NewRun, epoch: int, limits: Limits, *, beside: bool, now: int | None) -> Call[Admission]:
    record = _record(run, epoch, limits, beside=beside, now=now)
    hurdles = (run.parent_run_id, run.delay_ms, run.firing)
    alone = any(hurdle is not None for hurdle in hurdles)
    return Call(_ADMIT, (record,), lambda rows: _admitted(rows, run, epoch, limits), run.thread_id, alone)


def _record(run: NewRun, epoch: int, limits: Limits, *, beside: bool, now: int | None) -> str:
    """By the names of rc.admission (schema.sql)."""
    created_at, created_us = stamp(run.created_at)
    cron_id, cron_at, cron_next = run.firing or (None, None, None)
    return record_of(
        epoch=epoch,
        beside=beside,
        run_id=run.run_id,
        kind=run.kind,
        thread_id=run.thread_id,
        user_id=run.user_id,
        assistant_id=run.assistant_id,
        parent_run_id=run.parent_run_id,
        strategy=run.multitask_strategy,
        on_disconnect=run.on_disconnect,
        portable=run.portable,
        metadata=dumps(run.metadata),
        kwargs=dumps_opaque(run.kwargs),
        model_name=text(run.model_name),
        created_at=created_at,
        created_us=created_us,
        timeout_ms=run.timeout_ms,
        idle_timeout_ms=run.idle_timeout_ms,
        key=run.idempotency_key,
        request_hash=run.request_hash,
        must_exist=run.thread_must_exist,
        adopt=run.adopt,
        temporary_ms=run.temporary_ms,
        stamp=dumps_or_null(run.thread_metadata),
        webhook=run.webhook,
        delay_ms=run.delay_ms,
        queue_timeout_ms=run.queue_timeout_ms,
        per_thread=limits.per_thread,
        per_user=limits.per_user,
        cron_id=cron_id,
        cron_at=cron_at,
        cron_next=cron_next,
        now=now,
    )


def _admitted(rows: Rows, run: NewRun, epoch: int, limits: Limits) -> Admission:
    said, about, holds, fence, seq, temporary, more = rows[0]
    if said == "admitted":
        replaced = () if more is None else tuple(decided_of_json(row) for row in json.loads(more))
        return Admission(run.run_id, holds, fence, seq, replaced, temporary=temporary)
    if said == "existing":
        found = run_of_json(json.loads(more))
        return Admission(found.run_id, found.holds_thread, found.fence, found.seq, (), found)
    raise _refusal(said, about, run, epoch, limits)


def _refusal(said: str, about: str | None, run: NewRun, epoch: int, limits: Limits) -> CoordinatorError:
    if said == "line full":
        limit = limits.per_thread if about == "thread" else limits.per_user
        return QueueFull(run.thread_id, about or "thread", limit or 0)
    refusals: dict[str, CoordinatorError] = {
        "epoch dead": EpochDead(epoch),
        "thread not found": ThreadNotFound(run.thread_id),
        "conflict": ConflictError(run.thread_id, about),
        "key used": IdempotencyConflict(run.thread_id, run.idempotency_key or "", about),
        "cron fired": CronFired(run.firing.cron_id if run.firing is not None else ""),
        "no parent": RunNotFound(run.parent_run_id or ""),
        "parent ended": ParentEnded(run.parent_run_id or "", about or ""),
    }
    return refusals[said]


_CLAIM = Function("claim", ("text", "bigint", "bigint"))


def claim(now: int | None, thread_id: str, epoch: int) -> Call[Claimed | None]:
    def answer(rows: Rows) -> Claimed | None:
        said, run_id, fence = rows[0]
        if said == "epoch dead":
            raise EpochDead(epoch)
        return None if said is None else Claimed(run_id, fence)

    return Call(_CLAIM, (thread_id, epoch, now), answer)


MOST_CLAIMANTS = 8
"""See `stores.sql.sqlite.admission`."""
_CLAIMANTS = Query(
    f"WITH head AS (SELECT home_epoch, portable AND {HOMELESS} AS anybody, assistant_id FROM rc.runs"
    f" WHERE thread_id = $1 AND {WAITING}"
    " AND NOT EXISTS (SELECT FROM rc.runs WHERE thread_id = $1 AND holds_thread) ORDER BY seq LIMIT 1)"
    " SELECT epoch FROM head JOIN rc.workers ON state <> 'dead' AND (epoch = home_epoch OR (anybody"
    " AND state = 'live' AND assistant_id = ANY (assistants))) ORDER BY epoch DESC LIMIT $2"
)


def claimants(thread_id: str) -> Call[list[int]]:
    return Call(_CLAIMANTS, (thread_id, MOST_CLAIMANTS), lambda rows: [row[0] for row in rows])
