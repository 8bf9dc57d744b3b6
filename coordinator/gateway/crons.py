"""Crons of HTTP requests: validates, creates and changes them, and fires them as runs."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

from fastapi import HTTPException

from coordinator.assistants.configured import with_assistant_of
from coordinator.clock import wall
from coordinator.crons.firing import Fire, next_moment
from coordinator.crons.schedule import Schedule
from coordinator.gateway.caller import Caller, Role
from coordinator.gateway.run_admission import start_run, validate_run
from coordinator.gateway.services import Services
from coordinator.gateway.wire.crons import CronCreate, CronPatch, payload_of
from coordinator.gateway.wire.runs import RunCreate
from coordinator.runs.users import document_of, user_of
from stores.crons import CronRow, Firing
from stores.json_values import JsonObject

_MAX_ATTEMPTS = 5


async def create(services: Services, caller: Caller, body: CronCreate, thread_id: str | None) -> CronRow:
    """Creates a cron. Its run is validated as if it were requested now. Raises InvalidArgument,
    HTTPException, ThreadNotFound, TooManyCrons."""
    row = CronRow(
        cron_id=str(uuid4()),
        user_id=caller.user_id,
        assistant_id=body.assistant_id,
        thread_id=thread_id,
        schedule=body.schedule,
        timezone=body.timezone,
        enabled=body.enabled,
        end_at=body.end_time,
        on_run_completed=None if thread_id is not None else body.on_run_completed or "delete",
        payload=payload_of(body),
        metadata=body.metadata,
        next_at=None,
        user_document=document_of(caller.user),
    )
    row = await _validate(services, caller, row)
    row = _rescheduled(row)
    return await services.manager.crons.create(
        row,
        thread_must_exist=body.if_not_exists == "reject",
        limit=services.settings.max_crons_per_user,
    )


async def change(services: Services, caller: Caller, cron_id: str, body: CronPatch) -> CronRow:
    """Merges the changes into the cron and validates the result. Compares and swaps, with retries. Raises
    CronNotFound; HTTPException (409) if concurrent changes win every attempt."""
    for _ in range(_MAX_ATTEMPTS):
        existing = await services.manager.crons.get(cron_id, user_id=caller.user_id)
        changed = await _validate(services, caller, _patched(existing, body))
        if body.sets_time:
            changed = _rescheduled(changed)
        if caller.user_id == existing.user_id:
            changed = replace(changed, user_document=document_of(caller.user))
        written = await services.manager.crons.replace(changed, user_id=caller.user_id)
        if written is not None:
            return written
    raise HTTPException(409, "other requests are changing the cron: retry")


def _patched(existing: CronRow, body: CronPatch) -> CronRow:
    set_fields = body.model_fields_set
    fields: JsonObject = {
        name: getattr(body, name) for name in ("schedule", "timezone", "enabled") if name in set_fields
    }
    if "end_time" in set_fields:
        fields["end_at"] = body.end_time
    if "on_run_completed" in set_fields and existing.thread_id is None:
        fields["on_run_completed"] = body.on_run_completed
    return replace(
        existing,
        **fields,
        payload={**existing.payload, **payload_of(body)},
        metadata={**existing.metadata, **body.metadata},
    )


async def _validate(services: Services, caller: Caller, cron: CronRow) -> CronRow:
    """Validates the cron and replaces its assistant's id with the name under which workers register it. The
    id of an assistant that a client created is in the metadata. Raises InvalidArgument, HTTPException."""
    Schedule(cron.schedule, cron.timezone)
    spec = await validate_run(services, caller, _run_of(cron), cron.thread_id)
    return replace(
        cron,
        assistant_id=spec.assistant_id or cron.assistant_id,
        metadata=with_assistant_of(cron.metadata, spec.metadata),
    )


def _rescheduled(cron: CronRow) -> CronRow:
    """Sets the next moment from now on. Moments that were missed while the cron was disabled, or had another
    schedule, are skipped."""
    return replace(cron, next_at=next_moment(cron, after=wall()) if cron.enabled else None)


def _run_of(cron: CronRow) -> RunCreate:
    return RunCreate.model_validate(
        {**cron.payload, "metadata": cron.metadata, "on_completion": cron.on_run_completed or "delete"}
    )


def _caller_of(cron: CronRow) -> Caller:
    """Returns the owner of the cron, as it was authenticated when it last wrote the cron."""
    if (user := user_of(cron)) is None:
        return Caller(None, Role.user)
    return Caller(user.user_id, Role.user, permissions=user.permissions, attributes=user.attributes)


def firing_for(services: Services) -> Fire:
    """Returns the function that starts the run of a due cron, as the user that owns the cron. The idempotency
    key contains the moment, so a repeated firing returns the existing run."""

    async def fire(cron: CronRow, firing: Firing) -> bool:
        caller = _caller_of(cron)
        spec = await validate_run(
            services,
            caller,
            _run_of(cron),
            cron.thread_id,
            idempotency_key=f"cron:{cron.cron_id}:{firing.at}",
            firing=firing,
        )
        record = await start_run(services, spec, own_thread=cron.thread_id is None)
        return record.already_admitted

    return fire
