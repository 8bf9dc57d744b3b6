"""Runs that begin at an earlier checkpoint, over HTTP: they return what the same graph returns by itself."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint
from langgraph.graph import START, StateGraph
from langgraph.pregel import Pregel
from langgraph.types import Command, interrupt

from coordinator.langgraph import GraphAssistant, postgres_states
from coordinator.langgraph.encoding import as_json
from coordinator.langgraph.views import checkpoint_of
from tests.langgraph import graphs
from tests.langgraph.lab import assistants
from tests.support.gateways import Sdk, gateways
from tests.support.postgres import Database

pytestmark = pytest.mark.timeout(240)  # tests of many steps

Checkpoint = dict[str, Any]
INPUT = {"log": ["in"]}


class Thread(Protocol):
    """A thread of one graph. `before` returns a checkpoint at which the node is next, `inner` the newest one
    of the subgraph."""

    async def run(self, given: Any, at: Checkpoint | None = None, *, form: str = "checkpoint") -> Any: ...
    async def answer(self, value: Any, at: Checkpoint | None = None) -> Any: ...
    async def update(self, values: Any, as_node: str, at: Checkpoint) -> Checkpoint: ...
    async def before(self, node: str, *, newest: bool = True) -> Checkpoint: ...
    async def inner(self) -> Checkpoint: ...
    async def state(self) -> Any: ...


def shown(values: dict[str, Any]) -> dict[str, Any]:
    """Values with the questions of the interrupts, without their ids."""
    if "__interrupt__" not in values:
        return values
    questions: list[Any] = values["__interrupt__"]
    return {**values, "__interrupt__": [as_json(one)["value"] for one in questions]}


def is_compiled(builder: Any) -> bool:
    return isinstance(builder, Pregel)


class ByItself:
    """The graph with LangGraph's saver in memory."""

    def __init__(self, builder: Any) -> None:
        update = {"checkpointer": InMemorySaver()}
        self._graph: Any = builder.copy(update) if is_compiled(builder) else builder.compile(**update)

    def _config(self, at: Checkpoint | None = None) -> Any:
        return {"configurable": {**(at or {}), "thread_id": "t"}, "metadata": {"run_id": str(uuid4())}}

    async def run(self, given: Any, at: Checkpoint | None = None, *, form: str = "checkpoint") -> Any:
        return shown(await self._graph.ainvoke(given, self._config(at)))

    async def answer(self, value: Any, at: Checkpoint | None = None) -> Any:
        return await self.run(Command(resume=value), at)

    async def update(self, values: Any, as_node: str, at: Checkpoint) -> Checkpoint:
        written = await self._graph.aupdate_state(self._config(at), values, as_node=as_node)
        return checkpoint_of(written) or {}

    async def before(self, node: str, *, newest: bool = True) -> Checkpoint:
        history = [one async for one in self._graph.aget_state_history(self._config())]
        return [checkpoint_of(one.config) or {} for one in history if node in one.next][0 if newest else -1]

    async def inner(self) -> Checkpoint:
        state = await self._graph.aget_state(self._config(), subgraphs=True)
        return checkpoint_of(state.tasks[0].state.config) or {}

    async def state(self) -> Any:
        state = await self._graph.aget_state(self._config())
        return [state.values or {}, list(state.next), [one.value for one in state.interrupts]]


class OverHTTP:
    def __init__(self, sdk: Sdk, thread_id: str, graph: str) -> None:
        self._sdk, self._thread_id, self._graph = sdk, thread_id, graph

    async def run(self, given: Any, at: Checkpoint | None = None, *, form: str = "checkpoint") -> Any:
        options: dict[str, Any] = {}
        if at is not None:
            forms: dict[str, Any] = {
                "checkpoint": {"checkpoint": at},
                "checkpoint_id": {"checkpoint_id": at["checkpoint_id"]},
                "config": {"config": {"configurable": {"checkpoint_id": at["checkpoint_id"]}}},
            }
            options = forms[form]
        return shown(await self._sdk.runs.wait(self._thread_id, self._graph, input=given, **options))

    async def answer(self, value: Any, at: Checkpoint | None = None) -> Any:
        command = {"resume": value}
        return shown(await self._sdk.runs.wait(self._thread_id, self._graph, command=command, checkpoint=at))

    async def update(self, values: Any, as_node: str, at: Checkpoint) -> Checkpoint:
        written = await self._sdk.threads.update_state(
            self._thread_id, values, as_node=as_node, checkpoint=at
        )
        return written["checkpoint"]

    async def before(self, node: str, *, newest: bool = True) -> Checkpoint:
        history = await self._sdk.threads.get_history(self._thread_id, limit=100)
        return [one["checkpoint"] for one in history if node in one["next"]][0 if newest else -1]

    async def inner(self) -> Checkpoint:
        state = await self._sdk.threads.get_state(self._thread_id, subgraphs=True)
        return state["tasks"][0]["state"]["checkpoint"]

    async def state(self) -> Any:
        state = await self._sdk.threads.get_state(self._thread_id)
        return [state["values"], state["next"], [one["value"] for one in state["interrupts"]]]


def invoking(*, persistent: bool = False, questions: bool = False) -> Any:
    """`before`, then a node that invokes a graph, then `after`."""
    inner = graphs.nested(persistent=persistent, questions=questions).nodes["inner"].runnable

    async def invoke(state: graphs.Log) -> graphs.Log:
        return {"log": (await inner.ainvoke({"log": ["inner"]}))["log"]}

    chain = graphs.chain("before", "after")
    builder: Any = StateGraph(graphs.Log)
    builder.add_node("before", chain.nodes["before"].runnable)
    builder.add_node("inner", invoke)
    builder.add_node("after", chain.nodes["after"].runnable)
    builder.add_edge(START, "before")
    builder.add_edge("before", "inner")
    builder.add_edge("inner", "after")
    return builder


def function(*, persistent: bool = False, questions: bool = False) -> Any:
    """An `@entrypoint` with a question, which returns a value when it is answered."""
    make: Any = entrypoint()

    async def inner(given: Any) -> Any:
        return {"given": given, "answer": interrupt({"q": "inner"})}

    return make(inner)


Script = Callable[[Thread], Awaitable[list[Any]]]


async def replay(thread: Thread, form: str = "checkpoint", given: Any = None) -> list[Any]:
    seen = [await thread.run(INPUT), await thread.run({"log": ["again"]})]
    first = await thread.before("inner", newest=False)
    seen += [await thread.run(given, first, form=form), await thread.run({"log": ["later"]})]
    return [*seen, await thread.run(given, first, form=form), await thread.state()]


async def replay_by_id(thread: Thread) -> list[Any]:
    return await replay(thread, "checkpoint_id")


async def replay_by_config(thread: Thread) -> list[Any]:
    return await replay(thread, "config")


async def fork(thread: Thread) -> list[Any]:
    return await replay(thread, given={"log": ["fork"]})


async def fork_by_id(thread: Thread) -> list[Any]:
    return await replay(thread, "checkpoint_id", {"log": ["fork"]})


async def question_again(thread: Thread) -> list[Any]:
    seen = [await thread.run(INPUT)]
    at = await thread.before("inner")
    seen += [await thread.answer("first"), await thread.run(None, at), await thread.state()]
    return [*seen, await thread.answer("second"), await thread.state()]


async def question_after_new_input(thread: Thread) -> list[Any]:
    seen = [await thread.run(INPUT), await thread.answer("first")]
    at = await thread.before("inner")
    seen += [await thread.run({"log": ["fork"]}, at), await thread.state()]
    return [*seen, await thread.answer("second"), await thread.state()]


async def answer_at(thread: Thread) -> list[Any]:
    """Answers the question of an earlier checkpoint again."""
    seen = [await thread.run(INPUT)]
    at = await thread.before("inner")
    seen += [await thread.answer("first"), await thread.answer("second", at)]
    return [*seen, await thread.state()]


async def inner_checkpoint(thread: Thread) -> list[Any]:
    seen = [await thread.run(INPUT)]
    at = await thread.inner()
    seen += [await thread.answer("first"), await thread.run(None, at), await thread.state()]
    return [*seen, await thread.answer("second"), await thread.state()]


async def inner_update(thread: Thread) -> list[Any]:
    seen = [await thread.run(INPUT)]
    at = await thread.inner()
    seen += [await thread.answer("first")]
    written = await thread.update({"log": ["edit"]}, "x", at)
    seen += [await thread.run(None, written), await thread.state()]
    return seen


async def inner_update_of_the_newest(thread: Thread) -> list[Any]:
    seen = [await thread.run(INPUT)]
    await thread.update({"log": ["edit"]}, "x", await thread.inner())
    return [*seen, await thread.run(None), await thread.state()]


class Case(NamedTuple):
    make: Callable[..., Any]
    persistent: bool
    script: Script

    def builder(self) -> Any:
        return self.make(persistent=self.persistent, questions=self.script in ASKING)

    @property
    def name(self) -> str:
        kind = "persistent" if self.persistent else "plain"
        return f"{self.make.__name__}-{kind}-{self.script.__name__}"


REPLAYS: list[Script] = [replay, replay_by_id, replay_by_config, fork, fork_by_id]
OF_SUBGRAPHS: list[Script] = [inner_checkpoint, inner_update, inner_update_of_the_newest]
"""A graph that a node calls is no part of the state."""
ASKING: list[Script] = [question_again, question_after_new_input, answer_at, *OF_SUBGRAPHS]
CASES: list[Case] = [
    *(Case(function, False, script) for script in (question_again, answer_at)),
    *(
        Case(make, persistent, script)
        for make, persistent, script in product((graphs.nested, invoking), (False, True), REPLAYS + ASKING)
        if make is graphs.nested or script not in OF_SUBGRAPHS
    ),
]


@pytest.fixture(params=["sqlite", "postgres"])
async def store(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncGenerator[tuple[dict[str, Any], Callable[[dict[str, Any]], dict[str, Any]]]]:
    """Yields settings, and what makes assistants of graphs."""
    if request.param == "sqlite":
        yield {}, lambda made: assistants(tmp_path, made)
        return
    server: Database = request.getfixturevalue("shared_postgres")
    name = f"graphs_{uuid4().hex[:12]}"
    await server.execute(f"CREATE DATABASE {name}")
    url = urlunsplit(urlsplit(server.url)._replace(path=f"/{name}"))
    states = postgres_states(url)
    try:
        yield (
            {"store": url},
            lambda made: {key: GraphAssistant(graph, states, name=key) for key, graph in made.items()},
        )
    finally:
        await server.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def test_run_at_an_earlier_checkpoint_returns_what_the_graph_returns(
    tmp_path: Path, namespace: str, store: Any
) -> None:
    settings, make_assistants = store
    made = make_assistants({case.name: case.builder() for case in CASES})
    async with gateways(1, tmp_path, None, namespace, settings=settings, agents=lambda: made) as (served,):
        wrong = {}
        for case in CASES:
            thread = (await served.sdk.threads.create())["thread_id"]
            returned = await case.script(OverHTTP(served.sdk, thread, case.name))
            expected = await case.script(ByItself(case.builder()))
            if returned != expected:
                wrong[case.name] = returned, expected
    assert not wrong
