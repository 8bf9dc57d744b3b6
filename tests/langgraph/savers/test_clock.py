"""A run does not write checkpoints that are older than the head of its thread."""

from __future__ import annotations

import time

import pytest

from coordinator.langgraph.savers.clock import ClockBehind, written_at
from coordinator.langgraph.states import GraphStates
from tests.langgraph.savers.databases import CheckpointDatabase
from tests.langgraph.savers.running import Driver, plain, questions, with_subgraph


async def _newest(database: CheckpointDatabase) -> float:
    """When the newest checkpoint was written (s since 1970)."""
    written = written_at(max(row[2] for row in (await database.rows())["checkpoints"]))
    assert written is not None
    return written


async def _open_behind(database: CheckpointDatabase, seconds: float) -> float:
    """How long (s) `open` takes on a host whose clock is behind the newest checkpoint by `seconds`."""
    newest, began = await _newest(database), 0.0
    late = database.states(clock=lambda: newest - seconds + time.monotonic() - began)
    async with late.opened():
        began = time.monotonic()
        await late.open("thread", "late", 2)
        return time.monotonic() - began


async def test_open_waits_for_a_clock_that_is_little_behind(
    database: CheckpointDatabase, states: GraphStates
) -> None:
    await Driver(plain(), states).run({"log": ["x"]})
    assert 0.5 < await _open_behind(database, 0.5) < 5


async def test_open_refuses_a_clock_that_is_far_behind(
    database: CheckpointDatabase, states: GraphStates
) -> None:
    await Driver(plain(), states).run({"log": ["x"]})
    with pytest.raises(ClockBehind, match=r"clock of this host .* is [45]\.\d s behind .* 'thread'"):
        await _open_behind(database, 5)


async def test_checkpoints_of_subgraphs_count(database: CheckpointDatabase, states: GraphStates) -> None:
    """An interrupted subgraph has newer ones than its root graph."""
    await Driver(with_subgraph(questions("one")), states).run({"log": ["x"]})
    rows = (await database.rows())["checkpoints"]
    assert max(row[2] for row in rows if row[1] == "") < max(row[2] for row in rows)
    assert await _open_behind(database, 0.2) > 0.2


async def test_the_reference_names_the_head_and_its_run(states: GraphStates) -> None:
    driver = Driver(plain(), states)
    await driver.run({"log": ["x"]})
    assert driver.ref == {"kind": states.kind, "head": None, "head_run_id": None}
    head = (await driver.history())[0].config["configurable"]["checkpoint_id"]
    await driver.run({"log": ["y"]})
    assert driver.ref == {"kind": states.kind, "head": head, "head_run_id": "run-1"}
