"""The port of assistants that clients create: a registered assistant with a configuration, in versions.

`user_id=None` is system scope; otherwise assistants of other users are treated as if they did not exist.
Times are µs since 1970.

Errors of every call: StoreUnavailable, StoreRefused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from stores.crons import Direction
from stores.json_values import JsonObject
from stores.pages import Page

AssistantOrder = Literal["assistant_id", "graph_id", "name", "created_at", "updated_at"]


@dataclass(frozen=True, slots=True)
class AssistantRow:
    """`graph_id`: the name of the registered assistant that executes its runs. The store sets `version`, the
    times, and `revision`, which grows with every write."""

    assistant_id: str
    user_id: str | None
    graph_id: str
    name: str
    description: str | None = None
    config: JsonObject = field(default_factory=JsonObject)
    context: JsonObject = field(default_factory=JsonObject)
    metadata: JsonObject = field(default_factory=JsonObject)
    version: int = 1
    created_at: int = 0
    updated_at: int = 0
    revision: int = 1


@dataclass(frozen=True, slots=True)
class AssistantQuery:
    """A filter that is not given matches all. `metadata`: containment, as in `ThreadQuery`. `name`: a part of
    the name; ASCII letters match in either case. Equal rows are in the order of their names, then ids."""

    graph_id: str | None = None
    name: str | None = None
    metadata: JsonObject = field(default_factory=JsonObject)
    sort_by: AssistantOrder = "created_at"
    sort_order: Direction = "desc"
    limit: int = 10
    offset: int = 0
    max_bytes: int | None = None
    """Maximum size of a page's JSON. A page has at least one assistant."""


@runtime_checkable
class AssistantStore(Protocol):
    async def create_assistant(self, assistant: AssistantRow) -> AssistantRow | None:
        """Writes version 1. Returns None if the id is in use, also by another user."""
        ...

    async def assistant(self, assistant_id: str, *, user_id: str | None) -> AssistantRow | None:
        """Returns the latest version. One read of an index."""
        ...

    async def change_assistant(self, assistant: AssistantRow, *, user_id: str | None) -> AssistantRow | None:
        """Writes the content as the latest version, whose number is one more than the greatest. Compares and
        sets `revision`. Returns None if the assistant was changed or removed meanwhile."""
        ...

    async def set_assistant_version(
        self, assistant_id: str, version: int, *, user_id: str | None
    ) -> AssistantRow | None:
        """Makes an existing version the latest one. Returns None if there is no such assistant or version."""
        ...

    async def delete_assistant(self, assistant_id: str, *, user_id: str | None) -> bool:
        """Removes the assistant with all versions."""
        ...

    async def assistants(self, query: AssistantQuery, *, user_id: str | None) -> Page[AssistantRow]:
        """Raises SearchTooLong, as `count_assistants` does."""
        ...

    async def count_assistants(self, query: AssistantQuery, *, user_id: str | None) -> int:
        """Returns the number of matching assistants, ignoring `limit` and `offset`."""
        ...

    async def assistant_versions(
        self, assistant_id: str, query: AssistantQuery, *, user_id: str | None
    ) -> Page[AssistantRow]:
        """Returns the versions, the greatest number first, each with its own time of creation. Of `query`,
        only `metadata` and the bounds count."""
        ...
