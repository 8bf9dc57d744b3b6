"""How the server finds what it is asked for where history is long: by an index, and no further."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Generator
from typing import Any, NamedTuple

import asyncpg
import pytest

from bench.postgres import HISTORY, THREADS
from stores.catalogue import ThreadQuery
from stores.postgres import PostgresStore
from stores.sql.postgres import history, reading, threads
from stores.sql.postgres.calls import Call
from stores.sql.postgres.schema import named
from tests.support.builders import admitted, new_worker, running, waiting
from tests.support.postgres import Database

ROWS = 30_000


class Scene(NamedTuple):
    cx: asyncpg.Connection[Any]
    schema: str

    async def plan(self, call: Call) -> list[dict[str, Any]]:
        """Its steps, as a prepared statement of a worker's session is planned."""
        query = f"EXPLAIN (FORMAT JSON) {named(call.statement.sql, self.schema)}"
        (found,) = await self.cx.fetchrow(query, *call.args) or ("",)
        return list(_steps(json.loads(found)[0]["Plan"]))


def _steps(plan: dict[str, Any]) -> Generator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from _steps(inner)


@pytest.fixture
async def scene(shared_postgres: Database) -> AsyncGenerator[Scene]:
    """Long history on a hundred threads, and a little work on others."""
    async with shared_postgres.store() as store, shared_postgres.connection() as cx:
        schema = store._options.schema
        await _history(cx, schema)
        await _work(store)
        await cx.execute(f"ANALYZE {schema}.runs; ANALYZE {schema}.threads; ANALYZE {schema}.workers")
        try:
            yield Scene(cx, schema)
        finally:
            await cx.execute(f"TRUNCATE {schema}.runs, {schema}.threads")
            await cx.execute(f"ANALYZE {schema}.runs; ANALYZE {schema}.threads")


async def _history(cx: asyncpg.Connection[Any], schema: str) -> None:
    def here(statement: str) -> str:
        return statement.replace("coordinator.", f"{schema}.")

    await cx.execute(here("ALTER TABLE coordinator.runs DISABLE TRIGGER USER"))
    await cx.execute(here(THREADS), 100)
    await cx.execute(here(HISTORY), ROWS, 100)
    await cx.execute(here("ALTER TABLE coordinator.runs ENABLE TRIGGER USER"))


async def _work(store: PostgresStore) -> None:
    epoch = await store.register(new_worker())
    for number in range(5):
        await running(store, epoch, f"busy {number}", timeout_ms=60_000)
        await waiting(store, epoch, f"busy {number}")
        await admitted(store, epoch, f"later {number}", delay_ms=60_000)


ANYBODY: dict[str, Any] = {"statuses": (), "limit": 50, "user_id": None}
ASKED: dict[str, Call] = {
    "one run": reading.row("old7"),
    "who holds": reading.holder("busy 1"),
    "who waits": reading.waiting_line("busy 1"),
    "tick": reading.tick(1, 1_000_000),
    "newest of a thread": history.thread_runs("t7", offset=0, **ANYBODY),
    "newest of all": reading.runs(thread_id=None, statuses=(), limit=50, in_flight=False),
    "newest of a thread, as rows": reading.runs(thread_id="t7", statuses=(), limit=50, in_flight=False),
    "in flight": reading.runs(thread_id=None, statuses=(), limit=50, in_flight=True),
    "a thread": reading.thread("t7"),
    "newest threads": threads.threads(ThreadQuery(limit=20), None),
}


async def test_nothing_reads_the_history_to_its_end(scene: Scene) -> None:
    for name, asked in ASKED.items():
        for step in await scene.plan(asked):
            if step.get("Relation Name") == "runs":
                assert "Seq Scan" not in step["Node Type"], (name, step)


async def test_a_page_is_read_in_the_order_of_its_index(scene: Scene) -> None:
    """So that a page costs what is on it, however many rows there are."""
    for name in ("newest of a thread", "newest of a thread, as rows", "newest of all"):
        plan = await scene.plan(ASKED[name])
        scans = [step for step in plan if step.get("Relation Name") == "runs"]
        index = "runs_recent" if name == "newest of all" else "runs_history"
        assert [(step["Node Type"], step["Index Name"]) for step in scans] == [("Index Scan", index)]
        assert not [step for step in plan if "Sort" in step["Node Type"]]


async def test_a_tick_reads_what_is_in_flight_by_indexes_that_hold_nothing_else(scene: Scene) -> None:
    plan = await scene.plan(ASKED["tick"])
    indexes = {
        step["Index Name"] for step in plan if step.get("Relation Name") == "runs" and "Index Name" in step
    }
    indexes |= {step["Index Name"] for step in plan if step["Node Type"] == "Bitmap Index Scan"}
    assert indexes <= {
        "runs_tick", "runs_home", "runs_portable", "runs_due", "runs_deadline", "runs_queue_deadline",
        "runs_inflight", "runs_one_holder", "runs_owner",
    }  # fmt: skip
