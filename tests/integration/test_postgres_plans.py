"""How the server finds the rows of a query where history is long: by an index, and no further."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import asyncpg
import pytest

from bench.history import HISTORY, THREADS
from stores.catalogue import ThreadQuery
from stores.postgres import Options, PostgresStore
from stores.pruning import PruneCursor, Retention
from stores.sql import reads
from stores.sql.postgres import history, reading, threads
from stores.sql.postgres.calls import Call
from stores.sql.postgres.schema import named
from stores.sql.postgres.selecting import select
from tests.support.builders import SUCCESS, admitted, cancel, new_worker, running, waiting
from tests.support.postgres import Database
from tests.support.waiting import wait_until

ROWS = 30_000
STEPS, PAGE = 12, 500


class Scene(NamedTuple):
    store: PostgresStore
    cx: asyncpg.Connection[Any]
    schema: str
    before: int  # rows of the table of runs that were read while the scene was made

    async def rows_read(self) -> int:
        """Of the table of runs, by the store. Closes it: the last statistics of a session are written when it
        ends."""
        await self.store.aclose()
        return await _rows_read(self.cx, self.schema) - self.before

    async def plan(self, call: Call[Any]) -> list[dict[str, Any]]:
        """Its steps, as a prepared statement of a worker's session is planned."""
        query = f"EXPLAIN (FORMAT JSON) {named(call.statement.sql, self.schema)}"
        (plan,) = await self.cx.fetchrow(query, *call.args) or ("",)
        return list(_steps(json.loads(plan)[0]["Plan"]))


def _steps(plan: dict[str, Any]) -> Generator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from _steps(inner)


async def _rows_read(cx: asyncpg.Connection[Any], schema: str) -> int:
    """When the last worker's session has ended: its role has the schema's name."""

    async def sessions_ended() -> bool:
        return not await cx.fetchval("SELECT count(*) FROM pg_stat_activity WHERE usename = $1", schema)

    await wait_until(sessions_ended, description="the workers' sessions have ended")
    rows_read: int = await cx.fetchval(
        "SELECT pg_stat_get_tuples_returned(oid) + pg_stat_get_tuples_fetched(oid) FROM pg_class"
        " WHERE oid = to_regclass($1)",
        f"{schema}.runs",
    )
    return rows_read


@pytest.fixture
async def scene(shared_postgres: Database) -> AsyncGenerator[Scene]:
    """Long history on a hundred threads, and a little work on others. In a new schema: a pooler may keep
    sessions of the role of one that was used before."""
    schema = await shared_postgres.made()
    url = shared_postgres.as_role(schema)
    async with shared_postgres.connection() as cx:
        await _history(cx, schema)
        async with _store(url, schema) as store:
            await _work(store)
        await cx.execute(f"ANALYZE {schema}.runs; ANALYZE {schema}.threads; ANALYZE {schema}.workers")
        before = await _rows_read(cx, schema)
        async with _store(url, schema) as store:
            yield Scene(store, cx, schema, before)
        await cx.execute(f"TRUNCATE {schema}.runs, {schema}.threads")  # the schema is not used again


@asynccontextmanager
async def _store(url: str, schema: str) -> AsyncGenerator[PostgresStore]:
    store = PostgresStore(url, Options(schema=schema), migrate=False)
    await store.open()
    try:
        yield store
    finally:
        await store.aclose()


async def _history(cx: asyncpg.Connection[Any], schema: str) -> None:
    def in_schema(statement: str) -> str:
        return statement.replace("coordinator.", f"{schema}.")

    await cx.execute(in_schema("ALTER TABLE coordinator.runs DISABLE TRIGGER USER"))
    await cx.execute(in_schema(THREADS), 100)
    await cx.execute(in_schema(HISTORY), ROWS, 100)
    await cx.execute(in_schema("ALTER TABLE coordinator.runs ENABLE TRIGGER USER"))


async def _work(store: PostgresStore) -> None:
    epoch = await store.register(new_worker())
    for number in range(5):
        await running(store, epoch, f"busy {number}", timeout_ms=60_000)
        await waiting(store, epoch, f"busy {number}")
        await admitted(store, epoch, f"later {number}", delay_ms=60_000)


OF_ANY_USER: dict[str, Any] = {"statuses": (), "limit": 50, "user_id": None}
CALLS: dict[str, Call[Any]] = {
    "one run": select(reads.row("old7", None)),
    "who holds": select(reads.holder("busy 1")),
    "who waits": select(reads.waiting_line("busy 1")),
    "tick": reading.tick(1, 1_000_000),
    "newest of a thread": history.thread_runs("t7", offset=0, **OF_ANY_USER),
    "newest of all": select(reads.runs(thread_id=None, statuses=(), limit=50, in_flight=False)),
    "newest of a thread, as rows": select(reads.runs(thread_id="t7", statuses=(), limit=50, in_flight=False)),
    "in flight": select(reads.runs(thread_id=None, statuses=(), limit=50, in_flight=True)),
    "a thread": reading.thread("t7", None),
    "newest threads": threads.threads(ThreadQuery(limit=20), None),
}


async def test_nothing_reads_the_history_to_its_end(scene: Scene) -> None:
    for name, call in CALLS.items():
        for step in await scene.plan(call):
            if step.get("Relation Name") == "runs":
                assert "Seq Scan" not in step["Node Type"], (name, step)


async def test_a_page_is_read_in_the_order_of_its_index(scene: Scene) -> None:
    """So that a page costs what is on it, however many rows there are."""
    for name in ("newest of a thread", "newest of a thread, as rows", "newest of all"):
        plan = await scene.plan(CALLS[name])
        scans = [step for step in plan if step.get("Relation Name") == "runs"]
        index = "runs_recent" if name == "newest of all" else "runs_history"
        assert [(step["Node Type"], step["Index Name"]) for step in scans] == [("Index Scan", index)]
        assert not [step for step in plan if "Sort" in step["Node Type"]]


async def test_a_tick_reads_what_is_in_flight_by_indexes_that_hold_nothing_else(scene: Scene) -> None:
    plan = await scene.plan(CALLS["tick"])
    indexes = {
        step["Index Name"] for step in plan if step.get("Relation Name") == "runs" and "Index Name" in step
    }
    indexes |= {step["Index Name"] for step in plan if step["Node Type"] == "Bitmap Index Scan"}
    assert indexes <= {
        "runs_tick", "runs_home", "runs_portable", "runs_due", "runs_deadline", "runs_queue_deadline",
        "runs_inflight", "runs_one_holder", "runs_owner",
    }  # fmt: skip


# What is inside a function has no plan to be seen; it is planned anew a few times, then the plan is kept.


async def test_no_transaction_of_a_worker_reads_the_history_to_its_end(scene: Scene) -> None:
    store, me = scene.store, await scene.store.register(new_worker())
    for number in range(8):
        thread = f"t{number}"
        own = await running(store, me, thread)
        waits = await waiting(store, me, thread)
        await store.save(own, {"n": number})
        await store.finish(own, SUCCESS)
        assert await store.claim(thread, epoch=me) is not None
        await cancel(store, waits)
        await store.sweep(by=me, error="lost")
        await store.tick(me)
    assert await scene.rows_read() < 8 * 50  # of 30,000


async def test_the_pruner_reads_no_more_than_it_looks_at(scene: Scene) -> None:
    """Each row is looked at, is compared with the last run of its thread, is locked and is removed."""
    cursor: PruneCursor | None = None
    for _ in range(STEPS):
        step = await scene.store.prune(Retention(runs=1.0, transitions=1.0), cursor=cursor, limit=PAGE)
        cursor = step.cursor
    assert await scene.rows_read() < 4 * STEPS * PAGE
