"""Request bodies for threads and their states. See `coordinator.gateway.wire.bodies`."""

from __future__ import annotations

from typing import Annotated, Literal, Self, cast

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from coordinator.arguments import MAX_TIME_LIMIT
from coordinator.gateway.wire.bodies import (
    MAX_BATCH,
    ActingBody,
    Body,
    Checkpoint,
    Command,
    Direction,
    Id,
    JsonObject,
    Limit,
    Long,
    Name,
    Offset,
    Selected,
    ThreadStatus,
    checkpoint_keys,
    deduplicate,
)
from coordinator.gateway.wire.filters import Filter

MAX_UPDATES = 10_000
MAX_PATHS = 10
MAX_MINUTES = MAX_TIME_LIMIT / 60

ThreadOrder = Literal["thread_id", "status", "created_at", "updated_at", "state_updated_at"]
ThreadField = Literal[
    "thread_id",
    "created_at",
    "updated_at",
    "state_updated_at",
    "metadata",
    "status",
    "config",
    "context",
    "values",
    "interrupts",
    "error",
]


def _check_path_count(value: object) -> object:
    """Checks the number of paths before the paths: each invalid path would be listed as a mistake."""
    if _key_count(value) > MAX_PATHS:
        raise ValueError(f"may have {MAX_PATHS} paths at most")
    return value


def _key_count(value: object) -> int:
    return len(cast("dict[object, object]", value)) if isinstance(value, dict) else 0


class TimeToLive(Body):
    """Time to live of a thread (minutes since its last use), after which it is removed."""

    ttl: float = Field(gt=0, le=MAX_MINUTES)
    strategy: Literal["delete"] = "delete"

    @property
    def seconds(self) -> float:
        return self.ttl * 60


def _ttl(value: object) -> object:
    return {"ttl": value} if isinstance(value, (int, float)) and not isinstance(value, bool) else value


Ttl = Annotated[TimeToLive, BeforeValidator(_ttl, json_schema_input_type=TimeToLive | float)]


Updates = Annotated[list[JsonObject], Field(max_length=MAX_UPDATES, fail_fast=True)]


class StateUpdate(ActingBody):
    values: JsonObject | Updates | None = None
    as_node: Name | None = None
    checkpoint: Checkpoint | None = None
    checkpoint_id: Name | None = None


class SuperstepUpdate(Body):
    values: JsonObject | Updates | None = None
    command: Command | None = None
    as_node: Name


class Superstep(Body):
    updates: Annotated[list[SuperstepUpdate], Long]


class ThreadCreate(Body):
    thread_id: Id | None = None
    metadata: JsonObject = Field(default_factory=dict)
    if_exists: Literal["raise", "do_nothing"] = "raise"
    ttl: Ttl | None = None
    supersteps: Annotated[list[Superstep], Long] | None = None

    @model_validator(mode="after")
    def _check_update_count(self) -> Self:
        """Bounds the updates: each is a transaction during which the thread is held."""
        if sum(len(step.updates) for step in self.supersteps or ()) > MAX_BATCH:
            raise ValueError(f"supersteps may have {MAX_BATCH} updates at most, all of them together")
        return self


class ThreadPatch(ActingBody):
    """`metadata` is merged by key."""

    metadata: JsonObject = Field(default_factory=dict)
    ttl: Ttl | None = None


class ThreadPrune(ActingBody):
    thread_ids: Annotated[list[Id], Long, AfterValidator(deduplicate)]
    strategy: Literal["delete", "keep_latest"] = Field(
        default="delete",
        description="`delete`: the threads are removed. `keep_latest`: their former states are",
    )


class ThreadCount(Body):
    metadata: Filter = Field(default_factory=dict)
    values: Filter = Field(default_factory=dict)
    status: ThreadStatus | None = None


class ThreadSearch(ThreadCount):
    ids: Annotated[list[Id], Long, AfterValidator(deduplicate)] | None = None
    limit: Limit = 10
    offset: Offset = 0
    sort_by: ThreadOrder = "created_at"
    sort_order: Direction = "desc"
    select: Annotated[list[ThreadField], Selected] | None = None
    extract: (
        Annotated[dict[str, str], BeforeValidator(_check_path_count), Field(max_length=MAX_PATHS)] | None
    ) = None


class StateAt(Body):
    checkpoint: Checkpoint
    subgraphs: bool = False
    select: Annotated[list[str], Selected] | None = None


def _from_config(value: object) -> object:
    """Accepts a config, whose checkpoint is in `configurable`, as a checkpoint."""
    if not isinstance(value, dict):
        return value
    fields = cast("dict[object, object]", value)
    configurable = fields.get("configurable")
    return checkpoint_keys(cast("JsonObject", configurable)) if isinstance(configurable, dict) else fields


class Configured(Body):
    """The type of `before` in JavaScript clients."""

    configurable: JsonObject


Before = Annotated[
    Checkpoint | Name,
    BeforeValidator(_from_config, json_schema_input_type=Checkpoint | Configured | Name),
]


class HistoryBefore(Body):
    limit: Limit = 10
    before: Before | None = None
    metadata: Filter = Field(default_factory=dict)
    checkpoint: Checkpoint | None = None
    select: Annotated[list[str], Selected] | None = None
