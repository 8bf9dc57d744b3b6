"""The forms of a graph, and what a factory is given."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import StateGraph
from langgraph.store.memory import InMemoryStore
from langgraph_sdk.runtime import ServerRuntime

from coordinator import InvalidArgument, User
from coordinator.langgraph.loading import GraphEntry, is_graph
from coordinator.langgraph.runtime import Access
from coordinator.runs.exits import RunExited
from tests.langgraph import graphs

LEFT: list[str] = []


def no_arguments() -> Any:
    return graphs.chain("a")


async def asynchronous() -> Any:
    return graphs.chain("a").compile()


def one_config(config: dict[str, Any]) -> Any:
    return graphs.chain(config["configurable"].get("node", "a"))


async def one_runtime(server: ServerRuntime[Any]) -> Any:
    return graphs.chain("a") if server.access_context == "threads.read" else graphs.chain("b")


def both(runtime: Any, config: Any, flavour: str = "unused") -> Any:
    return graphs.chain("a" if runtime.store is not None and config["configurable"] is not None else "b")


@asynccontextmanager
async def managed(config: Any) -> AsyncGenerator[Any]:
    yield graphs.chain("a")
    LEFT.append("managed")


@contextmanager
def managed_sync() -> Generator[Any]:
    yield graphs.chain("a").compile()
    LEFT.append("managed_sync")


async def entry_point() -> Any:
    return graphs.doubled


def three_arguments(a: Any, b: Any, c: Any) -> Any: ...


def two_configs(config: Any, configuration: Any) -> Any: ...


FORMS: dict[str, tuple[object, Any, Any]] = {
    "builder": (graphs.chain("a"), {"log": []}, {"log": ["a"]}),
    "compiled": (graphs.chain("a").compile(), {"log": []}, {"log": ["a"]}),
    "entrypoint": (graphs.doubled, 2, 4),
    "factory": (no_arguments, {"log": []}, {"log": ["a"]}),
    "async factory": (asynchronous, {"log": []}, {"log": ["a"]}),
    "factory of config": (one_config, {"log": []}, {"log": ["a"]}),
    "factory of runtime": (one_runtime, {"log": []}, {"log": ["a"]}),
    "factory of both": (both, {"log": []}, {"log": ["a"]}),
    "async context manager": (managed, {"log": []}, {"log": ["a"]}),
    "context manager": (managed_sync, {"log": []}, {"log": ["a"]}),
    "factory of an entrypoint": (entry_point, 2, 4),
}


@pytest.mark.parametrize("form", FORMS)
async def test_form_is_opened_with_the_saver_of_the_server(form: str) -> None:
    entry, given, expected = FORMS[form]
    saver, store = InMemorySaver(), InMemoryStore()
    graph = GraphEntry("mine", entry)
    access = Access("threads.read", User("u"), {"configurable": {}})
    LEFT.clear()
    async with graph.open(access, saver, store) as opened:
        compiled: Any = opened
        assert compiled.store is store
        assert await compiled.ainvoke(given, {"configurable": {"thread_id": "t"}}) == expected
        assert compiled.name in ("mine", "_doubled")
        assert not LEFT
    assert ([entry.__name__] if "context manager" in form else []) == LEFT  # type: ignore[attr-defined]  # they are functions
    assert saver.get_tuple({"configurable": {"thread_id": "t"}}) is not None
    assert is_graph(entry) == (form in ("builder", "compiled", "entrypoint")) == (graph.structure is not None)


async def test_graph_of_the_user_is_not_changed() -> None:
    own = InMemorySaver()
    compiled = graphs.chain("a").compile(checkpointer=own)
    async with GraphEntry("mine", compiled).open(Access("threads.read"), InMemorySaver()) as opened:
        assert opened is not compiled
    assert compiled.checkpointer is own


async def test_factory_receives_reason_and_user() -> None:
    seen: list[Any] = []

    def make(config: Any, runtime: Any) -> Any:
        seen.append((runtime.access_context, runtime.execution_runtime, runtime.context, config))
        user = runtime.ensure_user()
        seen.append(
            (user.identity, user["team"], user.team, "team" in user, user.permissions, user.display_name)
        )
        return graphs.chain("a")

    entry = GraphEntry("mine", make)
    user = User("u", ("read",), {"team": "x"})
    async with entry.open(Access("threads.create_run", user, {"a": 1}, {"tone": "warm"}), InMemorySaver()):
        pass
    access, execution, context, config = seen[0]
    assert (access, context, config) == ("threads.create_run", {"tone": "warm"}, {"a": 1})
    assert execution.context == {"tone": "warm"}
    assert seen[1] == ("u", "x", "x", True, ["read"], "u")
    with pytest.raises(PermissionError):
        async with entry.open(Access("assistants.read"), InMemorySaver()):
            pass
    assert seen[2][:3] == ("assistants.read", None, None)


async def test_exception_of_a_run_reaches_the_context_manager() -> None:
    seen: list[type[BaseException]] = []

    @asynccontextmanager
    async def make() -> AsyncGenerator[Any]:
        try:
            yield graphs.chain("a")
        except ValueError as error:
            seen.append(type(error))
            raise

    with pytest.raises(ValueError, match="inside"):
        async with GraphEntry("mine", make).open(Access("threads.read"), InMemorySaver()):
            raise ValueError("inside")
    assert seen == [ValueError]


async def test_factory_that_exits_for_a_read_ends_no_process() -> None:
    @asynccontextmanager
    async def leaving() -> AsyncGenerator[Any]:
        yield graphs.chain("a")
        sys.exit("left")

    def entering() -> Any:
        sys.exit(3)

    for make, why in ((entering, r"sys\.exit\(3\)"), (leaving, r"sys\.exit\('left'\)")):
        with pytest.raises(RunExited, match=why):
            async with GraphEntry("mine", make).open(Access("threads.read"), InMemorySaver()):
                pass


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("text", "is of type str, not a StateGraph"),
        (three_arguments, "at most two arguments"),
        (two_configs, "at most two arguments"),
        (StateGraph(graphs.Log), "cannot be compiled"),
    ],
    ids=["text", "three arguments", "two configs", "empty builder"],
)
def test_other_objects_are_refused_when_loaded(entry: Any, why: str) -> None:
    with pytest.raises(InvalidArgument, match=why):
        GraphEntry("mine", entry)


async def test_factory_that_returns_no_graph_is_named() -> None:
    make: Callable[[], Any] = lambda: 5  # noqa: E731 - as users write it
    with pytest.raises(InvalidArgument, match="factory of 'mine' returned int"):
        async with GraphEntry("mine", make).open(Access("threads.read"), InMemorySaver()):
            pass


async def test_subgraph_with_a_saver_of_its_own_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    builder: Any = StateGraph(graphs.Log)
    builder.add_node("inner", graphs.chain("x").compile(checkpointer=InMemorySaver()))
    builder.set_entry_point("inner")
    for _ in range(2):
        async with GraphEntry("mine", builder).open(Access("threads.read"), InMemorySaver()):
            pass
    assert caplog.text.count("subgraph 'inner' of graph 'mine' has a checkpointer of its own") == 2
