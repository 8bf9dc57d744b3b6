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
from stores.rows import Admission, Claimed, Limits, Ownership, Started
from stores.spec import AdmissionRequest, RunSpec
from stores.sql.codec import dumps_or_null, loads, running, spec_writer
from stores.sql.conditions import WAITING
from stores.sql.postgres.calls import BatchFunction, Call, Function, Query, Rows, record_of
from stores.sql.postgres.codec import STORED, decided_of_json, run_of_json, text
from stores.times import stamp

_ADMIT = BatchFunction("admit", "admission", "reply, detail, holds, fence, seq, temporary, related")
_write_spec = spec_writer(text, STORED)
_NO_LIMITS = Limits()


def admit(now: int | None, request: AdmissionRequest, epoch: int, limits: Limits) -> Call[Admission]:
    return _admission(request, epoch, limits, beside=False, now=now)


def insert(now: int | None, request: AdmissionRequest, epoch: int) -> Call[Admission]:
    return _admission(request, epoch, _NO_LIMITS, beside=True, now=now)


def _admission(
    request: AdmissionRequest, epoch: int, limits: Limits, *, beside: bool, now: int | None
) -> Call[Admission]:
    spec = request.spec
    record = _record(request, epoch, limits, beside=beside, now=now)
    alone = any(one is not None for one in (spec.parent_run_id, spec.delay_ms, spec.firing))
    alone = alone or request.dispatched  # a batch admits to free threads, and they take them
    return Call(
        _ADMIT, (record,), lambda rows: _admitted(rows, request, epoch, limits), spec.thread_id, alone
    )


def _record(request: AdmissionRequest, epoch: int, limits: Limits, *, beside: bool, now: int | None) -> str:
    """The attributes of rc.admission (tables/4_runs.sql and the migrations), by name."""
    spec = request.spec
    created_at, created_us = stamp(request.created_at)
    cron_id, cron_at, cron_next = spec.firing or (None, None, None)
    return record_of(
        epoch=epoch,
        beside=beside,
        run_id=request.run_id,
        portable=request.portable,
        created_at=created_at,
        created_us=created_us,
        request_hash=request.request_hash,
        stamp=dumps_or_null(request.thread_metadata),
        fresh_metadata=dumps_or_null(request.new_thread_metadata),
        start_ref=dumps_or_null(request.start_ref),
        dispatched=request.dispatched or None,
        **dict(zip(STORED, _write_spec(spec), strict=True)),
        per_thread=limits.per_thread,
        per_user=limits.per_user,
        cron_id=cron_id,
        cron_at=cron_at,
        cron_next=cron_next,
        now=now,
    )


def _admitted(rows: Rows, request: AdmissionRequest, epoch: int, limits: Limits) -> Admission:
    reply, detail, holds, fence, seq, temporary, related = rows[0]
    if reply in ("admitted", "started"):
        replaced = () if related is None else tuple(decided_of_json(row) for row in json.loads(related))
        admission = Admission(request.run_id, holds, fence, seq, replaced, temporary=temporary)
        if reply == "admitted":
            return admission
        own = Ownership(request.run_id, request.spec.thread_id, epoch, fence)
        return admission._replace(started=Started(running(own, None), loads(detail)))
    if reply == "existing":
        existing = run_of_json(json.loads(related))
        return Admission.of_existing(existing)
    raise _refusal(reply, detail, request.spec, epoch, limits)


def _refusal(reply: str, detail: str | None, spec: RunSpec, epoch: int, limits: Limits) -> CoordinatorError:
    if reply == "queue full":
        limit = limits.per_thread if detail == "thread" else limits.per_user
        return QueueFull(spec.thread_id, detail or "thread", limit or 0)
    refusals: dict[str, CoordinatorError] = {
        "epoch dead": EpochDead(epoch),
        "thread not found": ThreadNotFound(spec.thread_id),
        "conflict": ConflictError(spec.thread_id, detail),
        "key used": IdempotencyConflict(spec.thread_id, spec.idempotency_key or "", detail),
        "cron fired": CronFired(spec.firing.cron_id if spec.firing is not None else ""),
        "no parent": RunNotFound(spec.parent_run_id or ""),
        "parent ended": ParentEnded(spec.parent_run_id or "", detail or ""),
    }
    return refusals[reply]


_CLAIM = Function("claim", ("text", "bigint", "bigint"))


def claim(now: int | None, thread_id: str, epoch: int) -> Call[Claimed | None]:
    def answer(rows: Rows) -> Claimed | None:
        reply, run_id, fence = rows[0]
        if reply == "epoch dead":
            raise EpochDead(epoch)
        return None if reply is None else Claimed(run_id, fence)

    return Call(_CLAIM, (thread_id, epoch, now), answer)


MOST_CLAIMANTS = 8
"""See `stores.sql.sqlite.admission`."""
_HOMELESS = "NOT EXISTS (SELECT FROM rc.workers WHERE epoch = home_epoch AND state <> 'dead')"
_CLAIMANTS = Query(
    f"WITH head AS (SELECT home_epoch, portable AND {_HOMELESS} AS any_worker, assistant_id FROM rc.runs"
    f" WHERE thread_id = $1 AND {WAITING}"
    " AND NOT EXISTS (SELECT FROM rc.runs WHERE thread_id = $1 AND holds_thread) ORDER BY seq LIMIT 1)"
    " SELECT epoch FROM head JOIN rc.workers ON state <> 'dead' AND (epoch = home_epoch OR (any_worker"
    " AND state = 'live' AND assistant_id = ANY (assistants))) ORDER BY epoch DESC LIMIT $2"
)


def claimants(thread_id: str) -> Call[list[int]]:
    return Call(_CLAIMANTS, (thread_id, MOST_CLAIMANTS), lambda rows: [row[0] for row in rows])
