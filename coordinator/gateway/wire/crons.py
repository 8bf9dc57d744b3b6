"""Crons: what clients may send, and what they are told."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Field, model_validator

from coordinator.assistants.registry import Assistants
from coordinator.crons.schedule import MAX_LENGTH
from coordinator.gateway.lazy import LazyModel
from coordinator.gateway.wire.bodies import (
    ActingBody,
    Body,
    Direction,
    Id,
    JsonObject,
    Limit,
    Name,
    Offset,
    RunCreate,
    RunOptions,
    Selected,
)
from coordinator.gateway.wire.documents import ALWAYS, parts_of
from coordinator.gateway.wire.filters import Filter
from coordinator.webhooks.document import without_path
from stores.crons import CronOrder, CronRow
from stores.times import instant, iso

Completion = Literal["delete", "keep"]
CronField = Literal[
    "cron_id",
    "assistant_id",
    "thread_id",
    "on_run_completed",
    "end_time",
    "schedule",
    "timezone",
    "created_at",
    "updated_at",
    "payload",
    "user_id",
    "next_run_date",
    "metadata",
    "enabled",
]


def _micros(value: object) -> object:
    """Of an ISO 8601 text; naive means UTC."""
    if value is None:
        return None
    found = instant(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError("must be an ISO 8601 time")
    return found


Instant = Annotated[
    int | None, BeforeValidator(_micros, json_schema_input_type=str), Field(ge=-(2**62), le=2**62)
]
ScheduleText = Annotated[
    str,
    Field(min_length=1, max_length=MAX_LENGTH, description="Five fields, from minute to weekday, or @daily"),
]
ZoneName = Annotated[
    str, Field(min_length=1, max_length=64, description="Of the IANA database; UTC if absent")
]


class CronCreate(RunCreate):
    """A run, and when it is to be run. `metadata` is the cron's, and that of each of its runs."""

    schedule: ScheduleText
    timezone: ZoneName | None = None
    end_time: Instant = None
    enabled: bool = True
    on_run_completed: Completion | None = Field(
        default=None, description="What becomes of the thread of each run; `delete` if absent"
    )


class CronPatch(RunOptions, ActingBody):
    """What is absent stays. `metadata` is merged, key by key; an `end_time` of null is none."""

    schedule: ScheduleText | None = None
    timezone: ZoneName | None = None
    end_time: Instant = None
    enabled: bool | None = None
    on_run_completed: Completion | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: object) -> object:
        return cls.checked(given, ("end_time",))

    @property
    def sets_time(self) -> bool:
        return not self.model_fields_set.isdisjoint({"schedule", "timezone", "end_time", "enabled"})


class CronCount(Body):
    assistant_id: Name | None = None
    thread_id: Id | None = None
    metadata: Filter = Field(default_factory=dict)


class CronSearch(CronCount):
    enabled: bool | None = None
    limit: Limit = 10
    offset: Offset = 0
    sort_by: CronOrder = "created_at"
    sort_order: Direction = "desc"
    select: Annotated[list[CronField], Selected] | None = None


_OF_THE_CRON = frozenset({*CronPatch.model_fields} - {*RunOptions.model_fields}) | {
    "metadata",
    "on_completion",
}


def payload_of(body: CronCreate | CronPatch) -> JsonObject:
    """What each run is asked to do, as it was given: without what is the cron's own."""
    given = body.model_dump(mode="json", exclude_unset=True, exclude=set(_OF_THE_CRON))
    return {name: value for name, value in given.items() if name in RunCreate.model_fields}


class Cron(LazyModel):
    cron_id: str
    assistant_id: str | None
    thread_id: str | None
    on_run_completed: Completion | None
    end_time: str | None
    schedule: str
    timezone: str | None
    created_at: str
    updated_at: str
    payload: JsonObject = Field(description="What each run is asked; of a webhook only where it is")
    user_id: str | None
    next_run_date: str | None = Field(description="None = never again, unless it is changed")
    metadata: JsonObject
    enabled: bool
    last_run_date: str | None = Field(description="The last moment that it was due at")
    last_run_id: str | None
    last_error: str | None = Field(description="Why that moment became no run")


CronParts = parts_of(Cron)


def cron_document(row: CronRow, assistants: Assistants) -> Cron:
    return Cron(
        cron_id=row.cron_id,
        assistant_id=assistants.client_id(row.assistant_id),
        thread_id=row.thread_id,
        on_run_completed=cast("Completion | None", row.on_run_completed),
        end_time=iso(row.end_at),
        schedule=row.schedule,
        timezone=row.timezone,
        created_at=iso(row.created_at) or ALWAYS,
        updated_at=iso(row.updated_at) or ALWAYS,
        payload=_shown(row.payload),
        user_id=row.user_id,
        next_run_date=iso(row.next_at),
        metadata=row.metadata,
        enabled=row.enabled,
        last_run_date=iso(row.last_at),
        last_run_id=row.last_run_id,
        last_error=row.last_error,
    )


def _shown(payload: JsonObject) -> JsonObject:
    webhook: Any = payload.get("webhook")
    return {**payload, "webhook": without_path(webhook)} if isinstance(webhook, str) else payload
