"""On PostgreSQL: a write and an advance of its fence exclude each other."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from coordinator.errors import StaleFence
from tests.langgraph.savers.databases import PostgresDatabase
from tests.langgraph.savers.running import run_of

_WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted"


async def test_write_waits_for_an_advance_and_is_refused(checkpoint_postgres: PostgresDatabase) -> None:
    await checkpoint_postgres.empty()
    states = checkpoint_postgres.states()
    cx = await asyncpg.connect(checkpoint_postgres.url)
    try:
        async with states.opened(), run_of(states, "thread", "run", 1):
            config: Any = {"configurable": {"thread_id": "thread", "checkpoint_ns": "", "checkpoint_id": "1"}}
            async with cx.transaction():
                await cx.execute("UPDATE coordinator_fences SET fence = 2")
                write = asyncio.ensure_future(states.saver.aput_writes(config, [("log", "x")], "task"))
                while not write.done() and not await cx.fetchval(_WAITING):
                    await asyncio.wait((write,), timeout=0.01)
            with pytest.raises(StaleFence):
                await write
    finally:
        await cx.close()
    assert not any((await checkpoint_postgres.rows()).values())
