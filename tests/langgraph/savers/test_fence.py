"""Which writes are refused."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from coordinator.errors import StaleFence
from coordinator.langgraph.savers.fences import WriteOutsideRun
from coordinator.langgraph.savers.postgres import writing as postgres_writing
from coordinator.langgraph.savers.sqlite import writing as sqlite_writing
from coordinator.langgraph.states import GraphStates
from tests.langgraph.savers.databases import CheckpointDatabase, SQLiteDatabase
from tests.langgraph.savers.running import Driver, plain, run_of, writing_as


async def _write(states: GraphStates, thread_id: str = "thread") -> None:
    """One of a run, onto a checkpoint that need not exist."""
    config: Any = {"configurable": {"thread_id": thread_id, "checkpoint_ns": "", "checkpoint_id": "1"}}
    await states.saver.aput_writes(config, [("log", ["x"])], "task")


async def test_writes_of_a_run_that_lost_the_thread_to_another_process(
    database: CheckpointDatabase, states: GraphStates
) -> None:
    other = database.states()
    async with other.opened(), run_of(states, "thread", "old", 1):
        await _write(states)
        await other.open("thread", "new", 2)
        before = await database.rows()
        with pytest.raises(StaleFence):
            await _write(states)
        with pytest.raises(StaleFence):
            await states.saver.adelete_thread("thread")
        assert await database.rows() == before


async def test_a_graph_that_lost_the_thread_ends_with_stale_fence(
    database: CheckpointDatabase, states: GraphStates
) -> None:
    other = database.states()
    async with other.opened():
        driver = Driver(plain(), states)
        async with driver.holding():
            await other.open("thread", "new", driver.fence + 1)
            with pytest.raises(StaleFence):
                await driver.graph.ainvoke({"log": ["x"]}, driver.config())
    assert not any((await database.rows()).values())


async def test_open_with_an_old_fence(database: CheckpointDatabase, states: GraphStates) -> None:
    other = database.states()
    async with other.opened():
        await other.open("thread", "new", 2)
        with pytest.raises(StaleFence):
            await states.open("thread", "old", 1)
        with pytest.raises(StaleFence):
            await states.copy("source", "thread", "old", 1)


async def test_closed_fence_is_sealed(states: GraphStates) -> None:
    await states.open("thread", "run", 1)
    with writing_as("thread", "run", 1):
        await _write(states)
        states.close("thread", 1)
        with pytest.raises(StaleFence):
            await _write(states)


async def test_a_write_that_waits_when_the_fence_is_closed_is_refused(database: CheckpointDatabase) -> None:
    """On SQLite for its transaction, on PostgreSQL for a connection."""
    states = database.states(**({} if isinstance(database, SQLiteDatabase) else {"connections": 1}))
    async with states.opened():
        await states.open("thread", "run", 1)
        with writing_as("thread", "run", 1):
            writes = [asyncio.ensure_future(_write(states)) for _ in range(2)]
            await asyncio.sleep(0)  # both have begun
            states.close("thread", 1)
            await asyncio.wait(writes)
        assert isinstance(writes[-1].exception(), StaleFence)


async def test_open_that_is_closed_before_its_answer_stays_closed(states: GraphStates) -> None:
    opening = asyncio.ensure_future(states.open("thread", "run", 1))
    await asyncio.sleep(0)
    states.close("thread", 1)
    with pytest.raises(StaleFence):
        await opening
    with writing_as("thread", "run", 1), pytest.raises(StaleFence):
        await _write(states)


async def test_undone_run_cannot_write_with_the_fence_of_its_restore(
    database: CheckpointDatabase, states: GraphStates
) -> None:
    """As a process does whose run is undone by another one before it notices."""
    other = database.states()
    async with other.opened(), run_of(states, "thread", "run", 1) as ref:
        await _write(states)
        await other.restore("thread", "run", ref, 1)
        with pytest.raises(StaleFence):
            await _write(states)
        with pytest.raises(StaleFence):
            await states.open("thread", "run", 1)
    assert not any((await database.rows()).values())


async def test_open_is_idempotent(states: GraphStates) -> None:
    first = await states.open("thread", "run", 1)
    with writing_as("thread", "run", 1):
        await _write(states)
    assert await states.open("thread", "run", 1) == first


async def test_code_of_no_run_cannot_write(states: GraphStates) -> None:
    with pytest.raises(WriteOutsideRun):
        await _write(states)


async def test_run_cannot_write_another_thread(states: GraphStates) -> None:
    await states.open("another", "other run", 1)
    async with run_of(states, "thread", "run", 1):
        with pytest.raises(WriteOutsideRun):
            await _write(states, "another")


async def test_write_that_was_never_opened(states: GraphStates) -> None:
    with writing_as("thread", "run", 1), pytest.raises(StaleFence):
        await _write(states)


async def test_no_row_of_an_older_fence_after_a_take_over(
    database: CheckpointDatabase, states: GraphStates
) -> None:
    """Two processes write as fast as they can, and take the thread from each other."""
    other = database.states()
    accepted: list[int] = []

    async def writes(of: GraphStates, fence: int, taken: asyncio.Event) -> None:
        """Until it is refused."""
        with writing_as("thread", f"run-{fence}", fence):
            for number in range(10_000):
                config: Any = {
                    "configurable": {"thread_id": "thread", "checkpoint_ns": "", "checkpoint_id": f"{fence}"}
                }
                try:
                    await of.saver.aput_writes(config, [("log", [fence])], f"task-{number}")
                except StaleFence:
                    return
                assert not accepted or fence == accepted[-1], f"{fence} after {accepted[-1]}"
                taken.set()

    async with other.opened():
        writers: list[asyncio.Task[None]] = []
        for fence in range(1, 13):
            of = states if fence % 2 else other
            await of.open("thread", f"run-{fence}", fence)
            accepted.append(fence)
            taken = asyncio.Event()
            writers.append(asyncio.create_task(writes(of, fence, taken)))
            await taken.wait()
        states.close("thread", 12)
        other.close("thread", 12)
        await asyncio.gather(*writers)


# -- delete and copy


async def test_late_delete_does_not_touch_a_newer_life_of_the_thread(
    database: CheckpointDatabase, states: GraphStates
) -> None:
    driver = Driver(plain(), states)
    await driver.run({"log": ["old life"]})
    await states.delete("thread", driver.run_id, driver.fence)
    assert not any((await database.rows()).values())
    await states.delete("thread", driver.run_id, driver.fence)  # repeated
    old_run, old_fence = driver.run_id, driver.fence
    await driver.run({"log": ["new life"]})
    before = await database.rows()
    with pytest.raises(StaleFence):
        await states.delete("thread", old_run, old_fence)
    assert await database.rows() == before


async def test_deleted_thread_leaves_a_fence_alone(database: CheckpointDatabase, states: GraphStates) -> None:
    """Which refuses a process that was paused while the thread was deleted."""
    driver = Driver(plain(), states)
    await driver.run({"log": ["x"]})
    other = database.states()
    async with other.opened():
        await other.delete("thread", "delete", driver.fence + 1)
    left = await database.rows("coordinator_fences", "coordinator_touched")
    assert [row[:2] for row in left["coordinator_fences"]] == [("thread", 2)]
    assert not left["coordinator_touched"]
    for refused in (
        states.open("thread", "run-1", 1),
        states.copy("source", "thread", "run-1", 1),
        states.restore("thread", "run-1", driver.ref, 1),
    ):
        with pytest.raises(StaleFence):
            await refused


async def test_run_may_remove_what_an_earlier_thread_has_left(
    database: CheckpointDatabase, states: GraphStates
) -> None:
    driver = Driver(plain(), states)
    await driver.run({"log": ["earlier thread"]})
    await states.delete("thread", "run-2", 2)
    assert (await driver.run({"log": ["x"]}))[0] == "x"
    assert driver.fence == 2


async def test_fences_of_deleted_threads_are_removed_in_time(
    database: CheckpointDatabase, states: GraphStates, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (sqlite_writing, postgres_writing):
        monkeypatch.setattr(module, "TOMBSTONES_KEPT", 0 if module is postgres_writing else -10)
    await states.delete("old", "delete", 1)
    await states.delete("new", "delete", 1)
    left = {row[0] for row in (await database.rows("coordinator_fences"))["coordinator_fences"]}
    assert "old" not in left


async def test_copy_has_all_checkpoints_of_its_source(
    database: CheckpointDatabase, states: GraphStates
) -> None:
    driver, target = Driver(plain(), states), Driver(plain(), states, thread_id="copy")
    await driver.run({"log": ["source"]})
    await target.run({"log": ["replaced"]})
    for _ in range(2):
        await states.copy("thread", "copy", "copy run", 5)
    for rows in (await database.rows()).values():
        of = {thread_id: [row[1:] for row in rows if row[0] == thread_id] for thread_id in ("thread", "copy")}
        assert of["thread"] == of["copy"]
    target.fence = 5
    assert (await target.run({"log": ["on"]}))[:2] == ["source", "one"]
