"""Former checkpoints are removed, the newest one stays as it is."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Annotated, Any, TypedDict, cast, get_args

import pytest
from langgraph.channels.delta import DeltaChannel
from langgraph.graph import END, START, StateGraph

from coordinator.errors import InvalidArgument, StaleFence
from coordinator.langgraph.states import GraphStates
from tests.langgraph.savers.databases import CheckpointDatabase, PostgresDatabase
from tests.langgraph.savers.running import Driver, Durability, questions, resume, run_of
from tests.langgraph.savers.scenes import SCENES
from tests.langgraph.savers.test_stock import Both, twin_of


def extended(held: list[str], updates: Sequence[list[str]]) -> list[str]:
    return [*held, *(one for update in updates for one in update)]


class Deltas(TypedDict):
    log: Annotated[list[str], DeltaChannel(extended)]


def noted(state: Deltas) -> dict[str, list[str]]:
    return {"log": [f"after {len(state['log'])}"]}


async def keep_latest(driver: Driver) -> None:
    async with driver.holding():
        await driver.states.keep_latest(driver.thread_id, driver.run_id, driver.fence)


async def ids(driver: Driver) -> list[tuple[str, str, str | None]]:
    listed = [one async for one in driver.saver.alist({"configurable": {"thread_id": driver.thread_id}})]
    return [
        (
            one.config["configurable"]["checkpoint_ns"],
            one.config["configurable"]["checkpoint_id"],
            one.parent_config and one.parent_config["configurable"]["checkpoint_id"],
        )
        for one in listed
    ]


@pytest.mark.parametrize("durability", get_args(Durability))
async def test_the_same_rows_are_left_as_by_the_saver_of_langgraph(
    checkpoint_postgres: PostgresDatabase, durability: str
) -> None:
    """Of all scenes: subgraphs with and without a state of their own, questions, errors, forks."""
    await checkpoint_postgres.empty()
    twin = twin_of(checkpoint_postgres, None)
    assert isinstance(twin, PostgresDatabase)
    await checkpoint_postgres.clone(twin)
    async with AsyncExitStack() as stack:
        stock = await stack.enter_async_context(twin.stock())
        states = checkpoint_postgres.states()
        await stack.enter_async_context(states.opened())
        drivers: list[Driver] = []
        for name, scene in SCENES.items():
            driver = Driver(scene.graph(), states, thread_id=name, durability=cast("Durability", durability))
            driver.saver = Both(states.saver, stock)
            driver.graph = driver.graph.copy(update={"checkpointer": driver.saver})
            await scene.before(driver)
            await scene.run(driver)
            drivers.append(driver)
        before = await checkpoint_postgres.rows()
        assert before == await twin.rows()
        for driver in drivers:
            await keep_latest(driver)
        await stock.aprune(list(SCENES), strategy="keep_latest")
        rows = await checkpoint_postgres.rows()
        assert rows == await twin.rows()
        assert len(rows["checkpoints"]) < len(before["checkpoints"])


async def test_paused_thread_is_resumed_from_the_checkpoint_that_is_left(states: GraphStates) -> None:
    driver = Driver(questions("one", "two"), states)
    await driver.run({"log": ["input"]})
    await driver.run(resume("first"))
    root = [one for one in await ids(driver) if not one[0]]
    await keep_latest(driver)
    assert [one for one in await ids(driver) if not one[0]] == [("", root[0][1], None)]
    assert len(root) > 1
    await keep_latest(driver)  # again
    log = await driver.run(resume("second"))
    assert log == ["input", "before", "one first", "two second", "after"]


async def test_pruned_thread_is_rolled_back_to_its_latest_checkpoint(
    database: CheckpointDatabase, states: GraphStates
) -> None:
    driver = Driver(questions("one"), states)
    await driver.run({"log": ["input"]})
    await keep_latest(driver)
    before = await database.rows()
    await driver.run(resume("yes"))
    await driver.restore()
    assert await database.rows() == before


async def test_other_threads_stay(states: GraphStates) -> None:
    pruned, other = (Driver(questions("one"), states, thread_id=name) for name in "ab")
    for driver in (pruned, other):
        await driver.run({"log": ["input"]})
    before = await ids(other)
    await keep_latest(pruned)
    assert await ids(other) == before


async def test_older_fence_removes_nothing(states: GraphStates) -> None:
    driver = Driver(questions("one"), states)
    await driver.run({"log": ["input"]})
    before = await ids(driver)
    async with run_of(states, driver.thread_id, "newer", driver.fence + 2):
        with pytest.raises(StaleFence):
            await states.keep_latest(driver.thread_id, "older", driver.fence + 1)
    assert await ids(driver) == before


async def test_thread_with_a_delta_channel_is_refused(states: GraphStates) -> None:
    """Its values are in former checkpoints."""
    builder: Any = StateGraph(Deltas)
    for name in ("one", "two"):
        builder.add_node(name, noted)
    builder.add_edge(START, "one")
    builder.add_edge("one", "two")
    builder.add_edge("two", END)
    driver = Driver(builder.compile(), states)
    await driver.run({"log": ["input"]})
    before = await ids(driver)
    with pytest.raises(InvalidArgument, match="DeltaChannel"):
        await keep_latest(driver)
    assert await ids(driver) == before
    assert len(before) > 2
