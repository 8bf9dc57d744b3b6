"""Reads wait for no write and no list, work from other threads, and make objects of allowed types alone."""

from __future__ import annotations

import asyncio
import operator
import pickle
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict, cast

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import END, START, StateGraph

from coordinator.errors import StoreRefused, StoreUnavailable, WrongEventLoop
from coordinator.langgraph.states import GraphStates
from tests.langgraph.savers.databases import CheckpointDatabase, SQLiteDatabase
from tests.langgraph.savers.running import Driver, plain, questions, synchronous, with_subgraph

CONFIG: Any = {"configurable": {"thread_id": "thread"}}


async def test_an_open_list_blocks_no_run(states: GraphStates) -> None:
    driver = Driver(plain(), states)
    for _ in range(10):  # more checkpoints than a page
        await driver.run({"log": ["x"]})
    listed = states.saver.alist(CONFIG)
    first = await anext(listed)
    assert await driver.run({"log": ["y"]})
    assert (await states.saver.aget_tuple(CONFIG)) != first
    assert len([one async for one in listed]) == 49


async def test_reads_on_sqlite_do_not_wait_for_a_writer_of_another_process(
    database: CheckpointDatabase, states: GraphStates
) -> None:
    driver = Driver(plain(), states)
    await driver.run({"log": ["x"]})
    if not isinstance(database, SQLiteDatabase):
        pytest.skip("a writer of PostgreSQL blocks no reader")
    with closing(sqlite3.connect(database.path, isolation_level=None)) as cx:
        cx.execute("BEGIN IMMEDIATE")
        async with asyncio.timeout(5):
            assert await states.saver.aget_tuple(CONFIG)
            assert await driver.history()
        cx.execute("ROLLBACK")


async def test_synchronous_methods_work_in_another_thread(states: GraphStates) -> None:
    driver = Driver(synchronous(), states)
    async with driver.holding():
        values = await asyncio.to_thread(driver.graph.invoke, {"log": ["x"]}, driver.config())
    assert values["log"] == ["x", "one"]
    saver = states.saver
    one = await asyncio.to_thread(saver.get_tuple, CONFIG)
    assert one == await saver.aget_tuple(CONFIG)
    listed = await asyncio.to_thread(lambda: list(saver.list(CONFIG, limit=2)))
    assert listed == [each async for each in saver.alist(CONFIG, limit=2)]
    async with driver.holding():
        await asyncio.to_thread(saver.delete_thread, "thread")
    assert await saver.aget_tuple(CONFIG) is None


async def test_synchronous_methods_are_refused_in_the_loop(states: GraphStates) -> None:
    with pytest.raises(WrongEventLoop):
        states.saver.get_tuple(CONFIG)


async def test_a_graph_that_a_synchronous_node_calls_belongs_to_the_run(
    database: CheckpointDatabase, states: GraphStates
) -> None:
    inner = synchronous(persistent=True)

    def node(state: Any) -> Any:
        return {"log": inner.invoke({"log": ["inner"]})["log"][-1:]}

    builder: Any = StateGraph(cast("Any", _Log))
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    builder.add_edge("node", END)
    driver = Driver(builder.compile(), states)
    await driver.run({"log": ["first"]})
    before = await database.rows()
    assert {row[1] for row in before["checkpoints"]} == {"", "node"}
    assert await driver.run({"log": ["second"]})
    await driver.restore()
    assert await database.rows() == before


class _Log(TypedDict):
    log: Annotated[list[Any], operator.add]


@dataclass
class Note:
    text: str


async def test_objects_are_made_of_allowed_types_alone(database: CheckpointDatabase) -> None:
    strict, open_to_notes = database.states(), database.states(allowed=[Note])
    message = HumanMessage("hello")
    async with strict.opened(), open_to_notes.opened():
        driver = Driver(plain(), strict)
        await driver.run({"log": [Note("a"), message, AIMessage("hi")]})

        async def log(states: GraphStates) -> list[Any]:
            one = await states.saver.aget_tuple(CONFIG)
            assert one is not None
            return one.checkpoint["channel_values"]["log"]

        assert (await log(strict))[:2] == [{"text": "a"}, message]
        assert (await log(open_to_notes))[:2] == [Note("a"), message]
        clone = strict.saver.with_allowlist([(Note.__module__, Note.__name__)])
        one = await clone.aget_tuple(CONFIG)
        assert one is not None
        assert one.checkpoint["channel_values"]["log"][0] == Note("a")


async def test_pickles_are_not_read(database: CheckpointDatabase, states: GraphStates) -> None:
    await Driver(plain(), states).run({"log": ["x"]})
    if not isinstance(database, SQLiteDatabase):
        pytest.skip("the serializer is the same")
    with closing(sqlite3.connect(database.path)) as cx, cx:
        cx.execute("UPDATE checkpoints SET type = 'pickle', checkpoint = ?", (pickle.dumps({"v": 4}),))
    with pytest.raises(NotImplementedError):
        await states.saver.aget_tuple(CONFIG)


async def test_history_of_a_subgraph(states: GraphStates) -> None:
    driver = Driver(with_subgraph(questions(persistent=True)), states)
    await driver.run({"log": ["x"]})
    config: Any = {"configurable": {"thread_id": "thread", "checkpoint_ns": "inner"}}
    listed = [one.config.get("configurable", {}) async for one in states.saver.alist(config)]
    namespaces = {configurable["checkpoint_ns"] for configurable in listed}
    assert namespaces == {"inner"}


async def test_states_that_are_not_open(database: CheckpointDatabase) -> None:
    states = database.states()
    with pytest.raises(StoreUnavailable, match=r"states\.opened"):
        _ = states.saver
    with pytest.raises(StoreUnavailable, match=r"states\.opened"):
        await states.open("thread", "run", 1)
    for _ in range(2):
        async with states.opened():
            await states.open("thread", "run", 1)
    with pytest.raises(StoreUnavailable):
        await states.open("thread", "run", 2)


async def test_kind_names_the_database(database: CheckpointDatabase, tmp_path: Any) -> None:
    assert database.states().kind == database.states().kind
    assert database.states().kind != SQLiteDatabase(tmp_path / "other.db").states().kind


async def test_the_run_store_is_no_file_of_checkpoints(tmp_path: Any) -> None:
    path = tmp_path / "runs.db"
    with closing(sqlite3.connect(path)) as cx:
        cx.execute("CREATE TABLE runs (run_id TEXT)")
    with pytest.raises(StoreRefused, match="a file of their own"):
        async with SQLiteDatabase(path).states().opened():
            pass
