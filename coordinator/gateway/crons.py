"""Crons as they are asked for over HTTP: checked, changed, and fired as the runs that they stand for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import uuid4

from fastapi import HTTPException

from coordinator.clock import wall
from coordinator.crons.firing import Fire, next_moment
from coordinator.crons.schedule import Schedule
from coordinator.gateway.beginning import begin, checked
from coordinator.gateway.caller import Caller, Role
from coordinator.gateway.services import Services
from coordinator.gateway.wire.bodies import RunCreate
from coordinator.gateway.wire.crons import CronCreate, CronPatch, payload_of
from stores.crons import CronRow, Firing

_TRIES = 5


async def create(services: Services, caller: Caller, body: CronCreate, thread_id: str | None) -> CronRow:
    """The run of a cron is checked as it would be if it were asked for now. Raises what that raises, and
    TooManyCrons."""
    new = CronRow(
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
    )
    new = _checked(services, new)
    new = _rescheduled(new)
    return await services.manager.create_cron(
        new,
        thread_must_exist=body.if_not_exists == "reject",
        limit=services.settings.max_crons_per_user,
    )


async def change(services: Services, caller: Caller, cron_id: str, body: CronPatch) -> CronRow:
    """Merged with what is there, and checked as a whole. Raises CronNotFound; HTTPException (409) where
    others are always quicker."""
    for _ in range(_TRIES):
        found = await services.manager.cron(cron_id, user_id=caller.user_id)
        changed = _checked(services, _patched(found, body))
        if body.sets_time:
            changed = _rescheduled(changed)
        written = await services.manager.replace_cron(changed, user_id=caller.user_id)
        if written is not None:
            return written
    raise HTTPException(409, "the cron is being changed by others: try again")


def _patched(found: CronRow, body: CronPatch) -> CronRow:
    given = body.model_fields_set
    fields: dict[str, Any] = {
        name: getattr(body, name) for name in ("schedule", "timezone", "enabled") if name in given
    }
    if "end_time" in given:
        fields["end_at"] = body.end_time
    if "on_run_completed" in given and found.thread_id is None:
        fields["on_run_completed"] = body.on_run_completed
    return replace(
        found,
        **fields,
        payload={**found.payload, **payload_of(body)},
        metadata={**found.metadata, **body.metadata},
    )


def _checked(services: Services, cron: CronRow) -> CronRow:
    """With the name of its assistant."""
    Schedule(cron.schedule, cron.timezone)
    wanted = checked(services, _run_of(cron), cron.thread_id)
    return replace(cron, assistant_id=wanted.assistant)


def _rescheduled(cron: CronRow) -> CronRow:
    """From now on: what was missed while it was disabled, or had another schedule, is not made up for."""
    return replace(cron, next_at=next_moment(cron, after=wall()) if cron.enabled else None)


def _run_of(cron: CronRow) -> RunCreate:
    return RunCreate.model_validate(
        {**cron.payload, "metadata": cron.metadata, "on_completion": cron.on_run_completed or "delete"}
    )


def firing_for(services: Services) -> Fire:
    """As the user who made the cron, with a key of that moment: who asks again finds the run."""

    async def fire(cron: CronRow, firing: Firing) -> bool:
        caller = Caller(cron.user_id, Role.user)
        wanted = checked(services, _run_of(cron), cron.thread_id)
        record = await begin(
            services,
            caller,
            wanted,
            idempotency_key=f"cron:{cron.cron_id}:{firing.at}",
            firing=firing,
        )
        return record.already_admitted

    return fire
