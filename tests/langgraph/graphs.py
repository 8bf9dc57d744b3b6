"""Graphs for tests. None calls a model; those that take time wait for an event of their test."""

from __future__ import annotations

import asyncio
import operator
import threading
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any

from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AnyMessage
from langgraph.config import get_stream_writer
from langgraph.func import entrypoint
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.runtime import Runtime
from langgraph.types import Command, Send, interrupt
from typing_extensions import TypedDict


class Log(TypedDict, total=False):
    log: Annotated[list[str], operator.add]
    answer: str


@dataclass
class Style:
    tone: str = "plain"


def chain(*names: str) -> Any:
    """Each node appends its name to the log."""
    builder: Any = StateGraph(Log)
    for name in names:
        builder.add_node(name, _appending(name))
    builder.add_edge(START, names[0])
    for source, target in pairwise(names):
        builder.add_edge(source, target)
    return builder


def _appending(name: str) -> Any:
    async def node(state: Log) -> Log:
        return {"log": [name]}

    return node


class Waiting:
    """A graph of three steps `a`, `b`, `c`: `b` sets `reached` and waits for `released`, in a thread if
    `sync`. `cancels` counts the cancels that `b` received."""

    def __init__(self, *, sync: bool = False) -> None:
        self.reached, self.released, self.cancels = asyncio.Event(), asyncio.Event(), 0
        self.thread_released, self.thread_over = threading.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        async def wait(state: Log) -> Log:
            self.reached.set()
            try:
                await self.released.wait()
            except asyncio.CancelledError:
                self.cancels += 1
                raise
            return {"log": ["b"]}

        def wait_in_thread(state: Log) -> Log:
            loop.call_soon_threadsafe(self.reached.set)
            self.thread_released.wait(20)
            self.thread_over.set()
            return {"log": ["b"]}

        builder: Any = StateGraph(Log)
        builder.add_node("a", _appending("a"))
        builder.add_node("b", wait_in_thread if sync else wait)
        builder.add_node("c", _appending("c"))
        builder.add_edge(START, "a")
        builder.add_edge("a", "b")
        builder.add_edge("b", "c")
        self.graph = builder


def asking(*questions: str) -> Any:
    """The node `question` interrupts with each question, then `note` runs."""

    async def question(state: Log) -> Log:
        return {"log": [f"{question}={interrupt({'q': question})}" for question in questions]}

    builder: Any = StateGraph(Log)
    builder.add_node("question", question)
    builder.add_node("note", _appending("note"))
    builder.add_edge(START, "question")
    builder.add_edge("question", "note")
    return builder


def asking_aside() -> Any:
    """`start` ends the run; `aside`, which a command reaches, interrupts, and `note` follows it."""

    async def aside(state: Log) -> Log:
        return {"log": [f"aside={interrupt('aside?')}"]}

    builder: Any = StateGraph(Log)
    builder.add_node("start", _appending("start"))
    builder.add_node("aside", aside)
    builder.add_node("note", _appending("note"))
    builder.add_edge(START, "start")
    builder.add_edge("start", END)
    builder.add_edge("aside", "note")
    return builder


def asking_twice_at_once() -> Any:
    """Two nodes of one step interrupt."""
    builder: Any = StateGraph(Log)
    for name in ("left", "right"):

        async def question(state: Log, name: str = name) -> Log:
            return {"log": [f"{name}={interrupt(name)}"]}

        builder.add_node(name, question)
        builder.add_edge(START, name)
    return builder


def nested(*, persistent: bool = False, questions: bool = False) -> Any:
    """`before`, then the subgraph `inner` with `x` and `y`, then `after`."""
    subgraph: Any = StateGraph(Log)
    subgraph.add_node("x", asking("inner").nodes["question"].runnable if questions else _appending("x"))
    subgraph.add_node("y", _appending("y"))
    subgraph.add_edge(START, "x")
    subgraph.add_edge("x", "y")
    builder: Any = StateGraph(Log)
    builder.add_node("before", _appending("before"))
    builder.add_node("inner", subgraph.compile(checkpointer=True if persistent else None))
    builder.add_node("after", _appending("after"))
    builder.add_edge(START, "before")
    builder.add_edge("before", "inner")
    builder.add_edge("inner", "after")
    return builder


def routed() -> Any:
    """`start` ends the run; `side` and `worker` are reached by commands."""
    builder: Any = StateGraph(Log)
    builder.add_node("start", _appending("start"))
    builder.add_node("side", _appending("side"))

    async def worker(item: Any) -> Log:
        return {"log": [f"worker:{item}"]}

    async def jump(state: Log) -> Command[Any]:
        return Command(goto=[Send("worker", 1), Send("worker", 2)], update={"log": ["jump"]})

    builder.add_node("worker", worker)
    builder.add_node("jump", jump)
    builder.add_edge(START, "start")
    builder.add_edge("start", END)
    return builder


class Chat(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


def chat() -> Any:
    """Emits a custom event, and an answer token by token."""

    async def answer(state: Chat) -> Chat:
        get_stream_writer()({"progress": 1})
        model = GenericFakeChatModel(messages=iter([AIMessage("Hello to you", id="answer")]))
        return {"messages": [await model.ainvoke(state["messages"])]}

    builder: Any = StateGraph(Chat)
    builder.add_node("model", answer)
    builder.add_edge(START, "model")
    return builder


def styled() -> Any:
    """Logs the context, and what the config has for `model`."""

    async def node(state: Log, runtime: Runtime[Style], config: Any) -> Log:
        model = config["configurable"].get("model")
        return {"log": [f"{runtime.context.tone if runtime.context else None}/{model}"]}

    node.__annotations__["config"] = "RunnableConfig"
    builder: Any = StateGraph(Log, context_schema=Style)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    return builder


def failing() -> Any:
    async def node(state: Log) -> Log:
        raise ValueError("the node failed")

    builder: Any = StateGraph(Log)
    builder.add_node("a", _appending("a"))
    builder.add_node("node", node)
    builder.add_edge(START, "a")
    builder.add_edge("a", "node")
    return builder


async def _doubled(number: int) -> int:
    return number * 2


_entrypoint: Any = entrypoint()
doubled: Any = _entrypoint(_doubled)
