"""Values and metadata that JSONB of PostgreSQL refuses are kept as all others."""

from __future__ import annotations

import math
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.graph import START, StateGraph

from tests.langgraph.savers.databases import CheckpointDatabase
from tests.langgraph.savers.running import Driver

VALUES: dict[str, Any] = {
    "nan": math.nan,
    "infinity": math.inf,
    "negative infinity": -math.inf,
    "NUL": "a\0b",
    "lone surrogate": "a\ud800b",
    "nested": {"of": [math.nan, "a\0b"]},
}
KEPT = {**VALUES, "lone surrogate": "a?b"}
"""The serializer of LangGraph replaces lone surrogates."""


def _last(_: Any, new: Any) -> Any:
    return new


class Valued(TypedDict, total=False):
    log: list[str]
    given: Any
    value: Annotated[Any, _last]
    again: Any


def valued(value: object) -> Any:
    async def first(state: Valued) -> Valued:
        return {"value": value, "log": ["first"]}

    async def second(state: Valued) -> Valued:
        return {"again": state.get("value"), "log": ["second"]}

    builder: Any = StateGraph(Valued)
    builder.add_node("first", first)
    builder.add_node("second", second)
    builder.add_edge(START, "first")
    builder.add_edge("first", "second")
    return builder.compile()


def plainly(values: Any) -> str:
    """NaN is not equal to itself; its text is."""
    return repr(dict(values))


@pytest.mark.parametrize("durability", ["async", "exit"])
@pytest.mark.parametrize("name", VALUES)
async def test_value_is_kept_and_undone_and_read_by_the_stock_saver(
    database: CheckpointDatabase, name: str, durability: Any
) -> None:
    states = database.states()
    config: Any = {"configurable": {"thread_id": "thread"}}
    async with states.opened():
        driver = Driver(valued(VALUES[name]), states, durability=durability)
        await driver.run({"given": VALUES[name], "log": []})
        before = await database.rows()
        await driver.run({"log": []})
        await driver.restore()
        assert await database.rows() == before
        await driver.update({"again": VALUES[name], "log": []}, as_node="second")
        head = await driver.graph.aget_state(config)
        history = [plainly(state.values) for state in await driver.history()]
        await states.open("copy", "run", 1)
        await states.copy("thread", "copy", "run", 1)
        copied = await driver.graph.aget_state({"configurable": {"thread_id": "copy"}})
    expected: dict[str, Any] = {"value": KEPT[name], "again": KEPT[name], "given": KEPT[name], "log": []}
    assert plainly({key: head.values[key] for key in expected}) == plainly(expected)
    assert plainly(copied.values) == plainly(head.values)
    async with database.stock() as stock:
        theirs = driver.graph.copy(update={"checkpointer": stock})
        assert plainly((await theirs.aget_state(config)).values) == plainly(head.values)
        assert [plainly(state.values) async for state in theirs.aget_state_history(config)] == history


async def test_metadata_is_written_without_what_jsonb_refuses(database: CheckpointDatabase) -> None:
    """LangGraph removes U+0000 from texts at the top level alone."""
    states = database.states()
    config: Any = {"configurable": {"thread_id": "thread"}}
    async with states.opened():
        driver = Driver(valued(1), states)
        async with driver.holding():
            given = {**driver.config(), "metadata": {"nul": "a\0b", "half": "a\ud800b", "nan": math.nan}}
            await driver.graph.ainvoke({"log": []}, given)
        read = await states.saver.aget_tuple(config)
        assert read is not None
        metadata: Any = read.metadata
        assert (metadata["nul"], metadata["half"], metadata["step"]) == ("ab", "ab", 2), metadata
        refused = {"run_id": "a\0b", "nan": math.nan}
        assert [one async for one in states.saver.alist(config, filter=refused)] == []
