"""A state that the schema of its graph refuses is read, forked and repaired."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt
from pydantic import BaseModel, TypeAdapter
from typing_extensions import TypedDict

from tests.langgraph.lab import assistants
from tests.support.gateways import Sdk, gateways


class Named(BaseModel):
    name: str
    n: int = 0


def typed(*, wrong: bool = False) -> Any:
    """`a` and `b` count; with `wrong`, the result of `a` is refused before `b`."""

    def a(state: Named) -> dict[str, Any]:
        return {"name": 3} if wrong else {"n": state.n + 1}

    def b(state: Named) -> dict[str, Any]:
        return {"n": state.n + 1}

    builder: Any = StateGraph(Named)
    builder.add_node("a", a)
    builder.add_node("b", b)
    builder.add_edge(START, "a")
    builder.add_edge("a", "b")
    return builder


def around() -> Any:
    builder: Any = StateGraph(Named)
    builder.add_node("inner", typed(wrong=True).compile())
    builder.add_edge(START, "inner")
    return builder


def numbers(old: list[int], new: list[int]) -> list[int]:
    return TypeAdapter(list[int]).validate_python([*old, *new])


class Numbers(TypedDict, total=False):
    log: Annotated[list[int], numbers]


def reduced() -> Any:
    """Of two nodes at once, one writes what the reducer refuses."""

    def refused(state: Numbers) -> dict[str, Any]:
        return {"log": ["x"]}

    def question(state: Numbers) -> None:
        interrupt("?")

    builder: Any = StateGraph(Numbers)
    for name, node in (("refused", refused), ("question", question)):
        builder.add_node(name, node)
        builder.add_edge(START, name)
    return builder


@pytest.fixture
async def sdk(tmp_path: Path, namespace: str) -> Any:
    made = {"typed": typed(), "wrong": typed(wrong=True), "around": around(), "reduced": reduced()}
    async with gateways(1, tmp_path, None, namespace, agents=lambda: assistants(tmp_path, made)) as (one,):
        yield one.sdk


async def failed(sdk: Sdk, thread: str, graph: str, **given: Any) -> None:
    result: Any = await sdk.runs.wait(thread, graph, raise_error=False, **given)
    assert "ValidationError" in str(result["__error__"])


async def test_thread_with_a_refused_input_is_read_and_forked(sdk: Sdk) -> None:
    thread = (await sdk.threads.create(graph_id="typed"))["thread_id"]
    await sdk.runs.wait(thread, "typed", input={"name": "x"})
    good: Any = await sdk.threads.get_state(thread)
    await failed(sdk, thread, "typed", input={"name": 3})
    state: Any = await sdk.threads.get_state(thread)
    assert (state["values"], state["next"]) == ({"name": 3, "n": 2}, ["a"])
    assert (await sdk.threads.get(thread))["values"] == {"name": 3, "n": 2}
    history: Any = await sdk.threads.get_history(thread)
    assert [one["values"].get("name") for one in history] == [3, "x", "x", "x", "x", None]
    forked = await sdk.runs.wait(
        thread, "typed", input={"name": "y"}, checkpoint_id=good["checkpoint"]["checkpoint_id"]
    )
    assert forked == {"name": "y", "n": 4}


async def test_refused_state_is_repaired_by_an_update(sdk: Sdk) -> None:
    thread = (await sdk.threads.create(graph_id="wrong"))["thread_id"]
    await failed(sdk, thread, "wrong", input={"name": "x"})
    state: Any = await sdk.threads.get_state(thread)
    assert (state["values"], state["next"]) == ({"name": 3}, ["b"])
    await sdk.threads.update_state(thread, {"name": "repaired"}, as_node="a")
    assert await sdk.runs.wait(thread, "wrong", input=None) == {"name": "repaired", "n": 1}


async def test_refused_state_of_a_subgraph_is_read(sdk: Sdk) -> None:
    thread = (await sdk.threads.create(graph_id="around"))["thread_id"]
    await failed(sdk, thread, "around", input={"name": "x"})
    state: Any = await sdk.threads.get_state(thread, subgraphs=True)
    assert state["tasks"][0]["state"]["values"] == {"name": 3, "n": 0}


async def test_state_that_a_reducer_refuses_is_a_422_beside_a_readable_history(sdk: Sdk) -> None:
    thread = (await sdk.threads.create(graph_id="reduced"))["thread_id"]
    await failed(sdk, thread, "reduced", input={"log": [1]})
    with pytest.raises(httpx.HTTPStatusError, match="ValidationError: 1 validation error for list") as error:
        await sdk.threads.get_state(thread)
    assert error.value.response.status_code == 422
    history: Any = await sdk.threads.get_history(thread)
    assert [one["next"] for one in history] == [["refused", "question"], ["__start__"]]
