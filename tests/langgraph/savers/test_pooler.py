"""Behind a pooler in transaction mode, which tracks no prepared statements."""

from __future__ import annotations

import asyncio

from coordinator.langgraph.states import postgres_states
from tests.langgraph.savers.running import Driver, questions, resume
from tests.support.pooler import Pooler
from tests.support.postgres import Database


async def test_runs_and_rollbacks_behind_a_pooler(shared_postgres: Database, shared_pooler: Pooler) -> None:
    states = postgres_states(shared_pooler.through(shared_postgres.url), statement_cache=0)
    async with states.opened():

        async def life(number: int) -> list[str]:
            driver = Driver(questions("one"), states, thread_id=f"pooled-{number}")
            await driver.run({"log": ["x"]})
            await driver.run(resume("no"))
            await driver.restore()
            log = await driver.run(resume("yes"))
            await states.delete(driver.thread_id, "delete", driver.fence + 1)
            return log

        logs = await asyncio.gather(*(life(number) for number in range(10)))
    assert logs == [["x", "before", "one yes", "after"]] * 10
    await shared_postgres.execute(
        "DROP TABLE checkpoint_migrations, checkpoints, checkpoint_blobs, checkpoint_writes,"
        " coordinator_fences, coordinator_touched, coordinator_undo_checkpoints, coordinator_undo_writes,"
        " coordinator_undo_blobs"
    )
