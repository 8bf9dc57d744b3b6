"""Request bodies for assistants. See `coordinator.gateway.wire.bodies`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from coordinator.gateway.wire.bodies import Body, Direction, Limit, Offset, Selected
from coordinator.gateway.wire.filters import Filter

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
