"""Request bodies for assistants. See `coordinator.gateway.wire.bodies`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

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
from coordinator.gateway.wire.filters import Filter
from coordinator.gateway.wire.runs import Config

AssistantOrder = Literal["assistant_id", "graph_id", "name", "created_at", "updated_at"]
AssistantField = Literal[
    "assistant_id",
    "graph_id",
    "name",
    "description",
    "config",
    "context",
    "created_at",
    "updated_at",
    "metadata",
    "version",
]


Description = Annotated[str, Field(max_length=10_000)]
Version = Annotated[int, Field(ge=1, le=2**31)]


class AssistantCreate(Body):
    """`graph_id`: the name or id of a registered assistant. `config` and `context` are added to each run,
    whose request takes precedence."""

    assistant_id: Id | None = None
    graph_id: Name
    name: Name = "Untitled"
    description: Description | None = None
    config: Config | None = None
    context: JsonObject | None = None
    metadata: JsonObject = Field(default_factory=dict)
    if_exists: Literal["raise", "do_nothing"] = "raise"


class AssistantPatch(ActingBody):
    """Absent fields stay unchanged. `metadata` is merged by key; `config` and `context` are replaced."""

    graph_id: Name | None = None
    name: Name | None = None
    description: Description | None = None
    config: Config | None = None
    context: JsonObject | None = None
    metadata: JsonObject = Field(default_factory=dict)


class AssistantVersionChange(ActingBody):
    version: Version


class AssistantVersions(Body):
    metadata: Filter = Field(default_factory=dict)
    limit: Limit = 10
    offset: Offset = 0


class AssistantCount(Body):
    metadata: Filter = Field(default_factory=dict)
    graph_id: str | None = None
    name: str | None = Field(default=None, description="Part of the name, case-insensitive")


class AssistantSearch(AssistantCount):
    limit: Limit = 10
    offset: Offset = 0
    sort_by: AssistantOrder = "name"
    sort_order: Direction = "asc"
    select: Annotated[list[AssistantField], Selected] | None = None
