"""How the server finds the rows of a query where history is long: by an index, and no further."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Coroutine, Generator, Iterable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import asyncpg
import pytest

from bench.fleet import Fleet, make
from bench.history import HISTORY, THREADS
from stores.catalogue import ThreadQuery
from stores.claims import ClaimableQuery
from stores.postgres import Options, PostgresStore
from stores.pruning import PruneCursor, Retention
from stores.rows import Ownership
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
    "who waits for a place": select(reads.pending_on(1)),
    "tick": reading.tick(1, 1_000_000, ("run",)),
    "newest of a thread": history.thread_runs("t7", offset=0, **OF_ANY_USER),
    "of a thread as they began": select(reads.started_runs("t7", 3, 1, None)),
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


async def test_latest_threads_are_read_in_the_order_of_their_index(shared_postgres: Database) -> None:
    schema = await shared_postgres.made()
    async with shared_postgres.connection() as cx:
        await make(cx, schema, Fleet(0, 20_000, 1, 0, in_flight=0, waiting=0))
        async with _store(shared_postgres.as_role(schema), schema) as store:
            scene = Scene(store, cx, schema, 0)
            for direction in ("asc", "desc"):
                plan = await scene.plan(threads.threads(ThreadQuery(sort_order=direction), None))
                assert "threads_latest" in {step.get("Index Name") for step in plan}
                assert {"Incremental Sort", "Index Scan"} <= {step["Node Type"] for step in plan}
        await cx.execute(f"TRUNCATE {schema}.runs, {schema}.threads")  # the schema is not used again


@pytest.mark.parametrize("worker", ["idle", "with a tenth of all runs"])
async def test_a_tick_keeps_its_plans_and_reads_by_indexes_of_few_entries(
    worker: str, shared_postgres: Database
) -> None:
    """Among thousands of runs in flight, with the planner's statistics of them."""
    schema = await shared_postgres.made()
    async with shared_postgres.connection() as cx:
        await make(cx, schema, Fleet(3_000, 3_000, 10, 10, in_flight=2_000, waiting=2_000))
        async with _store(shared_postgres.as_role(schema), schema) as store:
            epoch = await store.register(new_worker(assistants=("agent",)))
        plans = await _plans_in_function(cx, "worker_tick", schema, epoch if worker == "idle" else 5)
        await cx.execute(f"TRUNCATE {schema}.runs, {schema}.threads")  # the schema is not used again
    scans = [step for step in plans if step.get("Relation Name") == "runs" and step["Actual Loops"]]
    assert len(scans) >= 7
    assert {step["Index Name"] for step in scans} <= {
        "runs_tick", "runs_owner", "runs_home", "runs_one_holder", "runs_portable",
        "runs_due", "runs_deadline", "runs_queue_deadline",
    }  # fmt: skip
    values = [step["Index Cond"] for step in scans if "::bigint" in step.get("Index Cond", "")]
    assert [condition for condition in values if "COALESCE" not in condition] == [], "planned for one value"


async def gathered(calls: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
    return await asyncio.gather(*calls)


async def _plans_in_function(
    cx: asyncpg.Connection[Any], function: str, schema: str, epoch: int
) -> list[dict[str, Any]]:
    """The steps of the statements in the function, in a session that has called it often."""
    logged: list[str] = []
    cx.add_log_listener(lambda _, message: logged.append(str(message.message)))
    await cx.execute(
        "LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SET auto_explain.log_format = json;"
        " SET auto_explain.log_nested_statements = on; SET auto_explain.log_analyze = on"
    )
    for _ in range(8):
        logged.clear()
        async with cx.transaction():
            await cx.execute("SET LOCAL client_min_messages = log")
            await cx.fetch(f"SELECT * FROM {schema}.{function}($1, '{{run}}', NULL)", epoch)
            await cx.execute("SET LOCAL client_min_messages = error")
    plans = [json.loads(message.partition("plan:")[2]) for message in logged if "plan:" in message]
    return [step for plan in plans for step in _steps(plan["Plan"])]


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


async def test_claimable_runs_are_read_as_far_as_they_are_returned(scene: Scene) -> None:
    store, me = scene.store, await scene.store.register(new_worker(assistants=("agent",)))
    await scene.cx.execute(
        f"INSERT INTO {scene.schema}.runs (run_id, thread_id, status, holds_thread, portable, assistant_id,"
        " seq, created_at, created_us, updated_at) SELECT 'left' || n, 'left' || n, 'pending', false, true,"
        " 'agent', n, '2026-01-01T00:00:00+00:00', n, n FROM generate_series(1, 2000) n"
    )
    for _ in range(8):
        runs = await store.claimable(ClaimableQuery(20), epoch=me)
        assert [run.thread_id for run in runs] == [f"left{number}" for number in range(1, 21)]
    assert await scene.rows_read() == 0, "no scan of the table"
    fetched = await scene.cx.fetchval(
        "SELECT pg_stat_get_tuples_fetched($1::text::regclass)", f"{scene.schema}.runs_claimable"
    )
    assert 8 * 20 <= fetched < 8 * 40  # of 8 * 2,000


async def test_workers_do_not_read_the_entries_of_runs_that_ended_while_an_old_transaction_is_open(
    shared_postgres: Database,
) -> None:
    """The planner believes that no run is in flight; their indexes keep an entry of each that was since."""
    schema = await shared_postgres.made()
    async with shared_postgres.connection() as cx, shared_postgres.connection() as stranger:
        await make(cx, schema, Fleet(3_000, 300, 1, 0, in_flight=0, waiting=0))
        async with (
            stranger.transaction(isolation="repeatable_read"),
            _store(shared_postgres.as_role(schema), schema) as store,
        ):
            await stranger.fetch(f"SELECT count(*) FROM {schema}.runs")
            me = await store.register(new_worker())
            owned = list[Ownership]()
            for _ in range(12):
                owned = await gathered(running(store, me, f"t{number}") for number in range(50))
                await gathered(store.finish(own, SUCCESS) for own in owned)

            async def has_dead_rows() -> bool:
                return (
                    await cx.fetchval("SELECT pg_stat_get_dead_tuples($1::regclass)", f"{schema}.runs") > 1000
                )

            await wait_until(has_dead_rows, description="the server has counted the dead rows")
            for _ in range(10):
                ended = [own.run_id for own in owned]
                assert (await store.tick(me, ended)).not_held == frozenset(ended)
        await _rows_read(cx, schema)  # the sessions have ended
        in_flight, held = [
            await cx.fetchval("SELECT pg_stat_get_tuples_returned($1::regclass)", f"{schema}.{index}")
            for index in ("runs_inflight", "runs_owner")
        ]
        await cx.execute(f"TRUNCATE {schema}.runs, {schema}.threads")  # the schema is not used again
    assert in_flight < 600 * 3 * 12  # each of 600 runs may read those of its thread a few times
    assert held == 0


async def test_batches_do_not_read_all_runs_of_a_database_without_statistics(
    shared_postgres: Database,
) -> None:
    """The planner believes that there are few, and a session keeps the plan."""
    schema = await shared_postgres.made()
    async with (
        shared_postgres.connection() as cx,
        _store(shared_postgres.as_role(schema), schema) as store,
    ):
        me = await store.register(new_worker())
        for batch in range(12):
            await gathered(running(store, me, f"t{batch}-{number}") for number in range(50))
        await store.aclose()
        read = await _rows_read(cx, schema)
    assert read <= 600 * 2


async def test_the_pruner_reads_no_more_than_it_looks_at(scene: Scene) -> None:
    """Each row is looked at, is compared with the last run of its thread, is locked and is removed."""
    cursor: PruneCursor | None = None
    for _ in range(STEPS):
        step = await scene.store.prune(Retention(runs=1.0, transitions=1.0), cursor=cursor, limit=PAGE)
        cursor = step.cursor
    assert await scene.rows_read() < 4 * STEPS * PAGE
