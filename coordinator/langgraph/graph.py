"""What is used of a compiled graph. The loose types of LangGraph's interface end here."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol, cast

from langgraph.channels import UntrackedValue
from langgraph.pregel import Pregel
from langgraph.types import StateSnapshot, StateUpdate

from coordinator.errors import CoordinatorError, InvalidArgument
from coordinator.runs.outcomes import text_of
from coordinator.schemas import Json
from stores.json_values import JsonObject

logger = logging.getLogger(__name__)


class Drawing(Protocol):
    def to_json(self) -> Json: ...


class Node(Protocol):
    """`mapper` makes an object of the state that the node gets, which fails if its schema refuses it."""

    mapper: object
    subgraphs: Sequence[object]

    def copy(self, update: JsonObject) -> Node: ...


class Graph(Protocol):
    """A `Pregel`: a compiled `StateGraph`, or an `@entrypoint`."""

    name: str
    nodes: Mapping[str, Node]
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


def returns_untracked(graph: Graph) -> bool:
    """Whether a value that the graph returns is in no checkpoint."""
    names = graph.output_channels
    listed = (names,) if isinstance(names, str) else names
    return any(isinstance(graph.channels.get(name), UntrackedValue) for name in listed)


@contextmanager
def reading(thread_id: str) -> Generator[None]:
    """Logs an exception of the graph's code, for example of a reducer that does not accept what a step has
    written, and raises it as InvalidArgument."""
    try:
        yield
    except CoordinatorError:
        raise
    except Exception as error:
        logger.warning("The graph cannot read the state of thread %r", thread_id, exc_info=error)
        raise InvalidArgument("state", f"the graph cannot read it: {text_of(error)}") from error


def for_reading(graph: Graph) -> Graph:
    """Return the graph without the mappers of its nodes, so that a state that its schema refuses can be read,
    and repaired by an update: a snapshot prepares the next nodes as a run does."""
    nodes = {name: _for_reading(node) for name, node in graph.nodes.items()}
    if all(node is graph.nodes[name] for name, node in nodes.items()):
        return graph
    return graph.copy({"nodes": nodes})


def _for_reading(node: Node) -> Node:
    subgraphs = [
        for_reading(cast("Graph", one)) if isinstance(one, Pregel) else one for one in node.subgraphs
    ]
    same = all(one is before for one, before in zip(subgraphs, node.subgraphs, strict=True))
    if node.mapper is None and same:
        return node
    return node.copy({"mapper": None, "subgraphs": subgraphs})
