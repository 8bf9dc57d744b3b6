"""Graphs, and runs of them as the coordinator makes them: opened, as the current run, closed."""

from __future__ import annotations

import operator
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from types import SimpleNamespace
from typing import Annotated, Any, Literal, TypedDict, cast

from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt

from coordinator.context import RunContext, current_run
from coordinator.langgraph.savers.sqlite.behind import write_behind
from coordinator.langgraph.states import GraphStates

Durability = Literal["async", "sync", "exit"]


class State(TypedDict):
    log: Annotated[list[str], operator.add]


@contextmanager
def writing_as(thread_id: str, run_id: str, fence: int) -> Generator[None]:
    run = SimpleNamespace(thread_id=thread_id, run_id=run_id)
    token = current_run.set(cast("RunContext", SimpleNamespace(run=run, fence=fence, touch=lambda: None)))
    try:
        yield
    finally:
        current_run.reset(token)


@asynccontextmanager
async def run_of(
    states: GraphStates, thread_id: str, run_id: str, fence: int
) -> AsyncGenerator[dict[str, Any]]:
    """Yields the rollback reference."""
    ref = cast("dict[str, Any]", await states.open(thread_id, run_id, fence))
    with writing_as(thread_id, run_id, fence):
        try:
            yield ref
        finally:
            states.close(thread_id, fence)


class Driver:
    """Runs of one graph on one thread, one after another; the fence grows with each."""

    def __init__(
        self, graph: Any, states: GraphStates, *, thread_id: str = "thread", durability: Durability = "async"
    ) -> None:
        self.states, self.thread_id, self.durability = states, thread_id, durability
        self.saver: Any = states.saver
        self.graph = graph.copy(update={"checkpointer": self.saver})
        self.fence = 0
        self.run_id = ""
        self.ref: dict[str, Any] = {}

    def config(self, checkpoint_id: str | None = None) -> dict[str, Any]:
        configurable = {"thread_id": self.thread_id}
        if checkpoint_id is not None:
            configurable["checkpoint_id"] = checkpoint_id
        return {"configurable": configurable, "metadata": {"run_id": self.run_id}}

    @asynccontextmanager
    async def holding(self) -> AsyncGenerator[None]:
        self.fence += 1
        self.run_id = f"run-{self.fence}"
        async with run_of(self.states, self.thread_id, self.run_id, self.fence) as self.ref:
            yield

    async def run(self, given: object, *, at: str | None = None) -> list[str]:
        """The log at its end."""
        async with self.holding():
            return await self.invoke(given, at)

    async def invoke(self, given: object, at: str | None = None) -> list[str]:
        async with write_behind():
            return (await self.graph.ainvoke(given, self.config(at), durability=self.durability))["log"]

    async def update(self, values: object, as_node: str) -> None:
        async with self.holding():
            await self.graph.aupdate_state(self.config(), values, as_node=as_node)

    async def restore(self) -> None:
        await self.states.restore(self.thread_id, self.run_id, self.ref, self.fence)

    async def history(self) -> list[Any]:
        return [each async for each in self.graph.aget_state_history(self.config())]


def _note(name: str) -> Any:
    async def node(state: State) -> State:
        return {"log": [name]}

    return node


def plain() -> Any:
    builder: Any = StateGraph(State)
    names = ["one", "two", "three"]
    for name in names:
        builder.add_node(name, _note(name))
    for source, target in zip([START, *names], [*names, END], strict=True):
        builder.add_edge(source, target)
    return builder.compile()


def synchronous(*, persistent: bool = False) -> Any:
    """One node, a plain function."""

    def node(state: State) -> State:
        return {"log": ["one"]}

    builder: Any = StateGraph(State)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    builder.add_edge("node", END)
    return builder.compile(checkpointer=persistent or None)


def questions(*texts: str, persistent: bool = False) -> Any:
    """One node with an interrupt for each."""

    async def node(state: State) -> State:
        return {"log": [f"{question} {interrupt(question)}" for question in texts]}

    builder: Any = StateGraph(State)
    builder.add_node("before", _note("before"))
    builder.add_node("node", node)
    builder.add_node("after", _note("after"))
    builder.add_edge(START, "before")
    builder.add_edge("before", "node")
    builder.add_edge("node", "after")
    builder.add_edge("after", END)
    return builder.compile(checkpointer=persistent or None)


def with_subgraph(inner: Any) -> Any:
    builder: Any = StateGraph(State)
    builder.add_node("first", _note("first"))
    builder.add_node("inner", inner)
    builder.add_node("last", _note("last"))
    builder.add_edge(START, "first")
    builder.add_edge("first", "inner")
    builder.add_edge("inner", "last")
    builder.add_edge("last", END)
    return builder.compile()


def resume(value: object) -> Any:
    return Command(resume=value)
