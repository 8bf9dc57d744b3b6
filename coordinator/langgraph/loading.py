"""Opens graphs. An entry is one of nine forms: a builder, a compiled graph, an `@entrypoint`, or a factory of
zero to two arguments, sync or async, that returns one of these or a (async) context manager around one."""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
)
from typing import Protocol, TypeAlias, cast

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import StateGraph
from langgraph.pregel import Pregel
from langgraph.store.base import BaseStore

from coordinator.errors import InvalidArgument
from coordinator.langgraph.graph import Graph
from coordinator.langgraph.runtime import Access
from coordinator.langgraph.state_types import types_of
from coordinator.runs.exits import containing
from coordinator.schemas import Json

logger = logging.getLogger(__name__)

Saver: TypeAlias = "BaseCheckpointSaver[Json]"
Factory: TypeAlias = Callable[..., object]


class Builder(Protocol):
    def compile(self) -> object: ...


_FORMS = "a StateGraph, a compiled graph, an @entrypoint, or a function that returns one of them"
_UNNAMED = "LangGraph"
"""Name of a graph that was compiled without a name."""


class GraphEntry:
    """One graph of a configuration. `open` yields it with the saver and the store of the server; the object
    of the user is not changed.

    A graph that is no factory is prepared once. A factory is called each time, with the reason; the graphs
    that it returns must have the same nodes, edges and state.
    """

    def __init__(self, name: str, entry: object) -> None:
        """Raises InvalidArgument if `entry` is none of the forms, or cannot be compiled."""
        self.name = name
        self._factory: Factory | None = None
        self._arguments: tuple[str, ...] = ()
        self._prepared: tuple[Saver, BaseStore | None, Graph] | None = None
        self._checked = False
        self.structure: Graph | None = None
        """The graph without a saver, to inspect it; None for a factory."""
        if is_graph(entry):
            self.structure = self._compiled(entry)
        elif callable(entry):
            self._factory, self._arguments = entry, _arguments_of(name, entry)
        else:
            raise InvalidArgument("graph", f"{name!r} is of type {type(entry).__name__}, not {_FORMS}")

    @asynccontextmanager
    async def open(
        self, access: Access, saver: Saver, store: BaseStore | None = None
    ) -> AsyncGenerator[Graph]:
        """Raises InvalidArgument if a factory returns something else than a graph; otherwise what it
        raises, and RunExited in place of SystemExit, also where the graph is opened for a read."""
        if self._factory is None:
            yield self._open_fixed(saver, store)
            return
        with containing():
            async with AsyncExitStack() as stack:
                made = await self._made(self._factory, access, store, stack)
                yield self._with(self._compiled(made), saver, store)

    def _open_fixed(self, saver: Saver, store: BaseStore | None) -> Graph:
        prepared = self._prepared
        if prepared is None or prepared[0] is not saver or prepared[1] is not store:
            graph = self._with(cast("Graph", self.structure), saver, store)
            self._prepared = prepared = (saver, store, graph)
        return prepared[2]

    async def _made(
        self, factory: Factory, access: Access, store: BaseStore | None, stack: AsyncExitStack
    ) -> object:
        values: dict[str, object] = {"config": access.config, "runtime": access.runtime(store)}
        made = factory(*[values[name] for name in self._arguments])
        if inspect.isawaitable(made):
            made = await cast("Awaitable[object]", made)
        if isinstance(made, AbstractAsyncContextManager):
            made = await stack.enter_async_context(cast("AbstractAsyncContextManager[object]", made))
        elif isinstance(made, AbstractContextManager):
            made = stack.enter_context(cast("AbstractContextManager[object]", made))
        return made

    def _compiled(self, made: object) -> Graph:
        if isinstance(made, StateGraph):
            try:
                made = cast("Builder", made).compile()
            except ValueError as error:  # such as an edge to an unknown node
                raise InvalidArgument("graph", f"{self.name!r} cannot be compiled: {error}") from error
        if not isinstance(made, Pregel):
            raise InvalidArgument(
                "graph", f"the factory of {self.name!r} returned {type(made).__name__}, not {_FORMS}"
            )
        return cast("Graph", made)

    def _with(self, graph: Graph, saver: Saver, store: BaseStore | None) -> Graph:
        if not self._checked:
            self._checked = True
            _report_own_savers(self.name, graph)
        update: dict[str, Json] = {"checkpointer": saver.with_allowlist(types_of(graph))}
        if store is not None:
            update["store"] = store
        if graph.name == _UNNAMED:
            update["name"] = self.name
        return graph.copy(update)


def is_graph(entry: object) -> bool:
    """Return True for a builder, a compiled graph and an `@entrypoint`; factories are not recognised."""
    return isinstance(entry, (StateGraph, Pregel))


def _arguments_of(name: str, factory: Factory) -> tuple[str, ...]:
    """Return what the factory takes by position, "config" or "runtime": by annotation, else by name; one
    that is neither is the config. Raises InvalidArgument."""
    parameters = inspect.signature(factory).parameters.values()
    positional = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    named = [_kind_of(one) for one in positional]
    required = [one for one in parameters if one.default is one.empty and one.kind is one.KEYWORD_ONLY]
    count = max(
        (n for n, one in enumerate(positional, 1) if one.default is one.empty or named[n - 1]), default=0
    )
    taken = [kind or "config" for kind in named[:count]]
    if required or len(taken) > 2 or len(set(taken)) < len(taken):
        raise InvalidArgument(
            "graph",
            f"the factory of {name!r} must take at most two arguments, the config and a ServerRuntime",
        )
    return tuple(taken)


def _kind_of(parameter: inspect.Parameter) -> str | None:
    """Return None for an argument that is neither by its annotation nor by its name."""
    annotation = parameter.annotation
    text = annotation if isinstance(annotation, str) else repr(annotation)
    if "Runtime" in text or parameter.name in ("runtime", "server_runtime"):
        return "runtime"
    return "config" if "Config" in text or parameter.name == "config" else None


def _report_own_savers(name: str, graph: Graph) -> None:
    if isinstance(graph.checkpointer, BaseCheckpointSaver):
        logger.info("graph %r was compiled with a checkpointer: the one of the server is used instead", name)
    for namespace, subgraph in graph.get_subgraphs(recurse=True):
        if isinstance(getattr(subgraph, "checkpointer", None), BaseCheckpointSaver):
            logger.warning(
                "subgraph %r of graph %r has a checkpointer of its own: what it writes there is neither"
                " fenced nor rolled back; compile it without one, or with checkpointer=True",
                namespace,
                name,
            )
