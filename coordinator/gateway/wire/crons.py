"""Request bodies and response documents of crons."""

from __future__ import annotations

from typing import Annotated, Literal, cast

from pydantic import BeforeValidator, Field, model_validator

from coordinator.assistants.configured import client_assistant
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
    Selected,
)
from coordinator.gateway.wire.documents import ALWAYS, parts_of
from coordinator.gateway.wire.filters import Filter
from coordinator.gateway.wire.runs import RunCreate, RunOptions
from coordinator.webhooks.document import without_path
from stores.crons import CronOrder, CronRow
from stores.json_values import Json
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
    """Parses an ISO 8601 text to microseconds; a time without an offset is UTC."""
    if value is None:
        return None
    micros = instant(value) if isinstance(value, str) else None
    if micros is None:
        raise ValueError("must be an ISO 8601 time")
    return micros


Instant = Annotated[
    int | None, BeforeValidator(_micros, json_schema_input_type=str), Field(ge=-(2**62), le=2**62)
]
ScheduleText = Annotated[
    str,
    Field(min_length=1, max_length=MAX_LENGTH, description="Five fields, from minute to weekday, or @daily"),
]
ZoneName = Annotated[
    str, Field(min_length=1, max_length=64, description="Name in the IANA database; UTC if absent")
]


class CronCreate(RunCreate):
    """A run and its schedule. `metadata` applies to the cron and to each of its runs."""

    schedule: ScheduleText
    timezone: ZoneName | None = None
    end_time: Instant = None
    enabled: bool = True
    on_run_completed: Completion | None = Field(
        default=None, description="Whether the thread of each run is kept; `delete` if absent"
    )


class CronPatch(RunOptions, ActingBody):
    """Absent fields stay unchanged. `metadata` is merged by key; an `end_time` of null removes it."""

    schedule: ScheduleText | None = None
    timezone: ZoneName | None = None
    end_time: Instant = None
    enabled: bool | None = None
    on_run_completed: Completion | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, document: object) -> object:
        return cls.without_nulls(document, ("end_time",))

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


_CRON_FIELDS = frozenset({*CronPatch.model_fields} - {*RunOptions.model_fields}) | {
    "metadata",
    "on_completion",
}


def payload_of(body: CronCreate | CronPatch) -> JsonObject:
    """Returns the request of each run as the client has sent it, without the fields of the cron itself."""
    document = body.model_dump(mode="json", exclude_unset=True, exclude=set(_CRON_FIELDS))
    return {name: value for name, value in document.items() if name in RunCreate.model_fields}


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
    payload: JsonObject = Field(description="The request of each run; of a webhook only its host")
    user_id: str | None
    next_run_date: str | None = Field(description="None = the cron does not fire again unless it is changed")
    metadata: JsonObject
    enabled: bool
    last_run_date: str | None = Field(description="The last moment at which it was due")
    last_run_id: str | None
    last_error: str | None = Field(description="Why no run was started at that moment")


CronParts = parts_of(Cron)


def cron_document(row: CronRow, assistants: Assistants) -> Cron:
    assistant_id = client_assistant(row.metadata) or assistants.client_id(row.assistant_id)
    return Cron(
        cron_id=row.cron_id,
        assistant_id=assistant_id,
        thread_id=row.thread_id,
        on_run_completed=cast("Completion | None", row.on_run_completed),
        end_time=iso(row.end_at),
        schedule=row.schedule,
        timezone=row.timezone,
        created_at=iso(row.created_at) or ALWAYS,
        updated_at=iso(row.updated_at) or ALWAYS,
        payload=_payload(row, assistant_id),
        user_id=row.user_id,
        next_run_date=iso(row.next_at),
        metadata=row.metadata,
        enabled=row.enabled,
        last_run_date=iso(row.last_at),
        last_run_id=row.last_run_id,
        last_error=row.last_error,
    )


def _payload(row: CronRow, assistant_id: str | None) -> JsonObject:
    """Returns the payload with the fields of the cron that other servers repeat in it."""
    payload, webhook = row.payload, cast("Json", row.payload.get("webhook"))
    if isinstance(webhook, str):
        payload = {**payload, "webhook": without_path(webhook)}
    own = {"assistant_id": assistant_id, "schedule": row.schedule, "timezone": row.timezone}
    return {**payload, **own, "metadata": row.metadata}
