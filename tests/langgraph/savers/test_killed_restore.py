"""A restore that is killed at any point has undone all of the run or nothing, and can be repeated by another
process."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from coordinator.langgraph.states import GraphStates
from tests.langgraph.savers.databases import CheckpointDatabase, SQLiteDatabase
from tests.langgraph.savers.running import Driver, questions, with_subgraph
from tests.langgraph.savers.scenes import SCENES

_ROOT = Path(__file__).parents[3]


@pytest.mark.multiprocess
async def test_killed_restore_is_all_or_nothing(database: CheckpointDatabase, states: GraphStates) -> None:
    scene = SCENES["answer in a persistent subgraph"]
    driver = Driver(with_subgraph(questions("one", "two", persistent=True)), states)
    await scene.before(driver)
    before = await database.rows()
    await scene.run(driver)
    after = await database.rows()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.langgraph.savers.killed_restore",
        database.url,
        driver.run_id,
        str(driver.fence),
        cwd=_ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    steps: list[tuple[str, bool]] = []
    while True:
        process.stdin.write(f"{len(steps) + 1}\n".encode())
        line = (await process.stdout.readline()).decode().strip()
        if line.startswith("ended"):
            assert line == "ended 0"
            break
        assert (await process.stdout.readline()).decode().strip() == "killed"
        rows = await database.rows()
        assert rows in (before, after), f"killed before {line!r}"
        steps.append((line, rows == before))
    process.stdin.close()
    await process.wait()
    assert await database.rows() == before
    assert not steps[0][1]
    names = [name for name, _ in steps]
    if isinstance(database, SQLiteDatabase):
        assert len(names) >= 6
        assert names[-1] == "COMMIT"
    else:
        assert len(names) == 4
        assert names[-1].startswith("behind")
    assert [undone for _, undone in steps] == sorted(undone for _, undone in steps), steps
    await states.restore("thread", driver.run_id, driver.ref, driver.fence + 1)
    assert await database.rows() == before
