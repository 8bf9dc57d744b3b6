"""What a run of a graph returns and streams: the output of the graph, not its private state."""

from __future__ import annotations

import operator
from pathlib import Path
from typing import Annotated, Any

import pytest
from langgraph.channels import UntrackedValue
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt
from typing_extensions import TypedDict

from coordinator import RunManager
from coordinator.assistants.references import referenced
from tests.langgraph import graphs
from tests.langgraph.lab import begun, done, past, view, workers
from tests.langgraph.test_streams import comparable, emitted

LARGE = "x" * 20_000


class Given(TypedDict):
    q: str


class Returned(TypedDict):
    a: str


class Whole(Given, Returned):
    secret: str


async def answer(state: Whole) -> dict[str, str]:
    return {"a": state["q"], "secret": "private"} if state["q"] else {"secret": "private"}


async def hide(state: Whole) -> dict[str, str]:
    if state["q"] == "pause":
        interrupt("?")
    return {"secret": "more private"}


def private() -> Any:
    """Returns `a`; `q` and `secret` are private."""
    builder: Any = StateGraph(Whole, input_schema=Given, output_schema=Returned)
    builder.add_node("answer", answer)
    builder.add_node("hide", hide)
    builder.add_edge(START, "answer")
    builder.add_edge("answer", "hide")
    return builder


async def row_of(manager: RunManager, run_id: str) -> Any:
    row = await manager.store.row(run_id)
    assert row is not None
    return row


async def test_run_returns_the_output_and_the_thread_keeps_the_state(tmp_path: Path) -> None:
    stock = await private().compile().ainvoke({"q": "x"})
    async with workers(tmp_path, {"g": private()}) as (a, b):
        run = await begun(a, "g", input={"q": "x"})
        whole = {"q": "x", "a": "x", "secret": "more private"}
        assert await a.wait(run.run_id, timeout=20) == await b.wait(run.run_id, timeout=20) == stock
        assert stock == {"a": "x"}
        assert (await view(b)).values == whole
        assert (await past(b))[0].values == whole
        assert (await b.threads.get("t")).values == whole


@pytest.mark.parametrize("modes", [["values", "updates"], ["values", "events"]])
async def test_values_and_updates_are_streamed_as_the_output(tmp_path: Path, modes: list[str]) -> None:
    graph = private().compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "t"}}
    keys = graph.output_channels
    stream = graph.astream({"q": "x"}, config, stream_mode=["updates", "values"], output_keys=keys)
    stock = [[mode, data] async for mode, data in stream if mode in modes]
    async with workers(tmp_path, {"g": private()}, 1) as (manager,):
        events = await emitted(manager, "g", {"q": "x"}, modes)
    seen = [[mode, data] for mode, data in events if mode in {"values", "updates"}]
    assert comparable(seen) == comparable(stock)
    assert ["values", {"a": "x"}] in seen


async def test_run_that_writes_no_output_returns_none_of_the_state(tmp_path: Path) -> None:
    async with workers(tmp_path, {"g": private()}, 1) as (manager,):
        assert await done(manager, "g", input={"q": ""}) == {}


async def test_paused_run_returns_the_output(tmp_path: Path) -> None:
    async with workers(tmp_path, {"g": private()}, 1) as (manager,):
        assert await done(manager, "g", input={"q": "pause"}) == {"a": "pause"}
        assert (await view(manager)).interrupts[0].value == "?"
        assert await done(manager, "g", command={"resume": 1}) == {"a": "pause"}


class Untracked(TypedDict):
    log: Annotated[list[str], operator.add]
    token: Annotated[Any, UntrackedValue]


def untracked() -> Any:
    """`token` is in no checkpoint."""

    async def first(state: Untracked) -> Any:
        return {"log": ["first"], "token": {"t": "x" * 40}}

    async def second(state: Untracked) -> Any:
        return {"log": [interrupt("?") if state["log"][0] == "pause" else "second"]}

    builder: Any = StateGraph(Untracked)
    builder.add_node("first", first)
    builder.add_node("second", second)
    builder.add_edge(START, "first")
    builder.add_edge("first", "second")
    return builder


@pytest.mark.parametrize("modes", [[], ["values"], ["updates", "events"]])
@pytest.mark.parametrize("word", ["run", "pause"])
async def test_run_returns_values_that_are_in_no_checkpoint(
    tmp_path: Path, word: str, modes: list[str]
) -> None:
    stock: Any = untracked().compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "t"}}
    expected = await stock.ainvoke({"log": [word]}, config)
    expected.pop("__interrupt__", None)
    async with workers(tmp_path, {"g": untracked()}) as (a, b):
        run = await begun(a, "g", input={"log": [word]}, stream_mode=modes)
        assert await a.wait(run.run_id, timeout=20) == await b.wait(run.run_id, timeout=20) == expected
        assert "token" in expected
        assert (await view(b)).values == (await stock.aget_state(config)).values
        if word == "pause":
            answered = await stock.ainvoke(Command(resume="yes"), config)
            assert await done(a, "g", command={"resume": "yes"}) == answered


async def test_large_output_is_in_no_row(tmp_path: Path) -> None:
    async with workers(tmp_path, {"g": private()}) as (a, b):
        run = await begun(a, "g", input={"q": LARGE})
        for manager in (a, b):
            assert await manager.wait(run.run_id, timeout=20) == {"a": LARGE}
        assert referenced((await row_of(a, run.run_id)).result)
        await done(a, "g", input={"q": "later"})
        assert await b.wait(run.run_id) == {"a": LARGE}


async def test_small_output_of_a_large_state_is_copied(tmp_path: Path) -> None:
    async with workers(tmp_path, {"g": private()}, 1) as (manager,):
        await done(manager, "g", input={"q": "first"})
        run = await begun(manager, "g", input={"q": ""})
        await manager.wait(run.run_id, timeout=20)
        await manager.threads.update_state("t", {"secret": LARGE}, as_node="answer")
        run = await begun(manager, "g", input={"q": ""}, interrupt_before=["answer"])
        assert await manager.wait(run.run_id, timeout=20) == {"a": "first"}
        assert (await row_of(manager, run.run_id)).result == {"a": "first"}
        thread = await manager.store.thread("t")
        assert thread is not None
        assert referenced(thread.values)


async def test_one_of_two_answers_gives_what_the_graph_itself_returns(tmp_path: Path) -> None:
    graph = graphs.asking_twice_at_once()
    async with workers(tmp_path, {"g": graph}, 1) as (manager,):
        await done(manager, "g", input={"log": []})
        left = next(one for one in (await view(manager)).interrupts if one.value == "left")
        assert await done(manager, "g", command={"resume": {left.id: "A"}}) == {"log": ["left=A"]}


class Plain:
    """A class of which checkpoints can have no value."""


class Holder(TypedDict, total=False):
    value: Any


@pytest.mark.parametrize(
    ("name", "value"),
    [("Plain", Plain()), ("Plain", {"deep": [Plain()]}), ("complex", 1 + 2j), ("range", range(3))],
)
async def test_error_of_a_value_that_no_checkpoint_can_have_names_its_class_and_the_remedy(
    tmp_path: Path, name: str, value: Any
) -> None:
    async def node(state: Holder) -> Holder:
        return {"value": value}

    builder: Any = StateGraph(Holder)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    async with workers(tmp_path, {"g": builder}, 1) as (manager,):
        run = await begun(manager, "g", input={"value": None})
        ended = await manager.ended(run.run_id, timeout=20)
        assert ended.status == "error"
        assert ended.error is not None
        assert f"not msgpack serializable: {name}. Checkpoints keep no values" in ended.error
        assert "make the class a dataclass, a Pydantic model or a TypedDict" in ended.error
