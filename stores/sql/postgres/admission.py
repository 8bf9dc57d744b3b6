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
from stores.rows import Admission, Claimed, Limits
from stores.spec import AdmissionRequest, RunSpec
from stores.sql.codec import dumps_or_null, spec_writer
from stores.sql.postgres.calls import BatchFunction, Call, Function, Query, Rows, record_of
from stores.sql.postgres.codec import STORED, decided_of_json, run_of_json, text
from stores.sql.postgres.conditions import HOMELESS, WAITING
from stores.times import stamp

_ADMIT = BatchFunction("admit", "admission", "said, about, holds, fence, seq, temporary, more")
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
    return Call(
        _ADMIT, (record,), lambda rows: _admitted(rows, request, epoch, limits), spec.thread_id, alone
    )


def _record(request: AdmissionRequest, epoch: int, limits: Limits, *, beside: bool, now: int | None) -> str:
    """By the names of rc.admission (schema.sql)."""
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
        **dict(zip(STORED, _write_spec(spec), strict=True)),
        per_thread=limits.per_thread,
        per_user=limits.per_user,
        cron_id=cron_id,
        cron_at=cron_at,
        cron_next=cron_next,
        now=now,
    )


def _admitted(rows: Rows, request: AdmissionRequest, epoch: int, limits: Limits) -> Admission:
    said, about, holds, fence, seq, temporary, more = rows[0]
    if said == "admitted":
        replaced = () if more is None else tuple(decided_of_json(row) for row in json.loads(more))
        return Admission(request.run_id, holds, fence, seq, replaced, temporary=temporary)
    if said == "existing":
        found = run_of_json(json.loads(more))
        return Admission(found.run_id, found.holds_thread, found.fence, found.seq, (), found)
    raise _refusal(said, about, request.spec, epoch, limits)


def _refusal(said: str, about: str | None, spec: RunSpec, epoch: int, limits: Limits) -> CoordinatorError:
    if said == "line full":
        limit = limits.per_thread if about == "thread" else limits.per_user
        return QueueFull(spec.thread_id, about or "thread", limit or 0)
    refusals: dict[str, CoordinatorError] = {
        "epoch dead": EpochDead(epoch),
        "thread not found": ThreadNotFound(spec.thread_id),
        "conflict": ConflictError(spec.thread_id, about),
        "key used": IdempotencyConflict(spec.thread_id, spec.idempotency_key or "", about),
        "cron fired": CronFired(spec.firing.cron_id if spec.firing is not None else ""),
        "no parent": RunNotFound(spec.parent_run_id or ""),
        "parent ended": ParentEnded(spec.parent_run_id or "", about or ""),
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
