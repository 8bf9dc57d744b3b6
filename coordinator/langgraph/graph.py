"""What is used of a compiled graph. The loose types of LangGraph's interface end here."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from typing import Protocol

from langgraph.types import StateSnapshot, StateUpdate

from coordinator.schemas import Json
from stores.json_values import JsonObject


class Drawing(Protocol):
    def to_json(self) -> Json: ...


class Graph(Protocol):
    """A `Pregel`: a compiled `StateGraph`, or an `@entrypoint`."""

    name: str
    nodes: Mapping[str, object]
    channels: Mapping[str, object]
    checkpointer: object
    interrupt_before_nodes: Json
    interrupt_after_nodes: Json
    output_channels: str | Sequence[str]

    @property
    def context_schema(self) -> object: ...
    @property
    def stream_channels_asis(self) -> str | Sequence[str]: ...
    @property
    def stream_channels_list(self) -> Sequence[str]: ...

    def copy(self, update: JsonObject) -> Graph: ...
    def get_name(self) -> str: ...
    def get_input_jsonschema(self) -> Json: ...
    def get_output_jsonschema(self) -> Json: ...
    def get_context_jsonschema(self) -> Json: ...
    def get_subgraphs(
        self, *, namespace: str | None = None, recurse: bool = False
    ) -> Iterator[tuple[str, Graph]]: ...
    def aget_subgraphs(self, *, namespace: str | None, recurse: bool) -> AsyncIterator[tuple[str, Graph]]: ...
    async def aget_graph(self, *, xray: bool | int) -> Drawing: ...
    def astream(self, input: Json, config: JsonObject, **options: Json) -> AsyncGenerator[Json]: ...  # noqa: A002 - its name there
    def astream_events(
        self,
        input: Json,  # noqa: A002 - its name there
        config: JsonObject,
        **options: Json,
    ) -> AsyncGenerator[JsonObject]: ...
    async def aget_state(self, config: JsonObject, *, subgraphs: bool) -> StateSnapshot: ...
    def aget_state_history(
        self,
        config: JsonObject,
        *,
        filter: JsonObject | None,  # noqa: A002 - its name there
        before: JsonObject | None,
        limit: int,
    ) -> AsyncIterator[StateSnapshot]: ...
    async def abulk_update_state(
        self, config: JsonObject, supersteps: Sequence[Sequence[StateUpdate]]
    ) -> JsonObject: ...
