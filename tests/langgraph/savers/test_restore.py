"""`restore` puts every row back as it was before the run."""

from __future__ import annotations

from typing import cast, get_args

import pytest
from langgraph.checkpoint.base import Checkpoint

from coordinator.errors import StaleFence
from coordinator.langgraph.states import GraphStates
from tests.langgraph.savers.databases import CheckpointDatabase
from tests.langgraph.savers.running import Driver, Durability, plain, run_of
from tests.langgraph.savers.scenes import SCENES

_UNDO = ("coordinator_touched", "coordinator_undo_checkpoints", "coordinator_undo_writes")


@pytest.mark.parametrize("durability", get_args(Durability))
@pytest.mark.parametrize("name", SCENES)
async def test_all_rows_are_as_before(
    database: CheckpointDatabase, states: GraphStates, name: str, durability: str
) -> None:
    scene = SCENES[name]
    driver = Driver(scene.graph(), states, durability=cast("Durability", durability))
    await scene.before(driver)
    before = await database.rows()
    first = await scene.run(driver)
    assert await database.rows() != before
    for _ in range(2):
        await driver.restore()
        assert await database.rows() == before
    assert await scene.run(driver) == first


async def test_restore_by_another_process_with_a_newer_fence(
    database: CheckpointDatabase, states: GraphStates
) -> None:
    driver = Driver(plain(), states)
    await driver.run({"log": ["kept"]})
    before = await database.rows()
    await driver.run({"log": ["undone"]})
    other = database.states()
    async with other.opened():
        await other.restore("thread", driver.run_id, driver.ref, driver.fence + 1)
    assert await database.rows() == before
    with pytest.raises(StaleFence):
        await driver.restore()


async def test_checkpoint_that_the_run_has_replaced(
    database: CheckpointDatabase, states: GraphStates
) -> None:
    driver = Driver(plain(), states)
    await driver.run({"log": ["kept"]})
    before = await database.rows()
    head = await states.saver.aget_tuple({"configurable": {"thread_id": "thread", "checkpoint_ns": ""}})
    assert head is not None
    assert head.parent_config is not None
    async with driver.holding():
        for log in (["replaced"], ["replaced twice"]):
            version = states.saver.get_next_version(str(head.checkpoint["channel_versions"]["log"]), None)
            checkpoint = {**head.checkpoint, "channel_values": {"log": log}}
            checkpoint["channel_versions"] = {"log": version}
            await states.saver.aput(
                head.parent_config, cast("Checkpoint", checkpoint), head.metadata, {"log": version}
            )
    assert await database.rows() != before
    await driver.restore()
    assert await database.rows() == before


async def test_restore_of_a_run_that_wrote_nothing(database: CheckpointDatabase, states: GraphStates) -> None:
    driver = Driver(plain(), states)
    await driver.run({"log": ["kept"]})
    before = await database.rows()
    async with driver.holding():
        pass
    await driver.restore()
    assert await database.rows() == before


async def test_late_restore_does_not_touch_a_newer_run(
    database: CheckpointDatabase, states: GraphStates
) -> None:
    driver = Driver(plain(), states)
    await driver.run({"log": ["old"]})
    old, fence = driver.run_id, driver.fence
    await driver.run({"log": ["new"]})
    before = await database.rows()
    with pytest.raises(StaleFence):
        await states.restore("thread", old, driver.ref, fence)
    assert await database.rows() == before


async def test_undo_data_is_removed_when_the_states_close(database: CheckpointDatabase) -> None:
    states = database.states()
    async with states.opened():
        driver = Driver(plain(), states)
        await driver.run({"log": ["input"]})
        assert (await database.rows(*_UNDO))["coordinator_touched"]
        await states.forget([driver.run_id])
    assert not any((await database.rows(*_UNDO)).values())


async def test_undo_data_that_a_crash_left_is_removed_by_the_next_run(
    database: CheckpointDatabase, states: GraphStates
) -> None:
    driver = Driver(plain(), states)
    await driver.run({"log": ["input"]})
    async with run_of(states, "thread", "next", driver.fence + 1):
        assert not any((await database.rows(*_UNDO)).values())
