"""Behind a real PgBouncer in transaction mode: each transaction may meet another session of the server."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import AsyncExitStack
from typing import Any

import pytest

from coordinator import RunContext, Settings, open_coordinator
from coordinator.notifier import Connectivity
from stores.errors import StoreUnavailable
from stores.postgres import Options, PostgresStore
from stores.states import RunStatus
from tests.support.builders import SUCCESS, admitted, cancel, new_worker, row_of, running
from tests.support.inside_stores import options_of, sessions_of
from tests.support.pooler import SHARED, Pooler, pooler
from tests.support.postgres import Database
from tests.support.teams import QUICK
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_task_left")

SETTING = "postgres_statement_cache"
OURS = "lock_timeout, statement_timeout, default_transaction_isolation, jit"
"""What a session is given as it begins."""


async def lives(store: PostgresStore, epoch: int, thread: str, count: int) -> None:
    for _ in range(count):
        own = await running(store, epoch, thread)
        await store.save(own, {"n": 1})
        finish = await store.finish(own, SUCCESS)
        assert (finish.status, finish.lost) == (RunStatus.success, False)


async def test_many_clients_share_few_sessions(shared_pooler: Pooler, shared_postgres: Database) -> None:
    async with shared_pooler.store() as store:
        epoch = await store.register(new_worker())
        await asyncio.gather(*(lives(store, epoch, f"t{at}", 5) for at in range(20)))
        async with shared_postgres.connection() as cx:
            role = store.schema  # they have the same name
            sessions = await cx.fetchval("SELECT count(*) FROM pg_stat_activity WHERE usename = $1", role)
            held = await cx.fetchval(
                "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)"
                " WHERE usename = $1 AND locktype = 'advisory'",
                role,
            )
        assert 1 < sessions <= SHARED
        assert held == 0, "the next client of the session would hold its lock"


async def test_workers_that_start_at_once_migrate_once(
    shared_pooler: Pooler, shared_postgres: Database, namespace: str
) -> None:
    schema = namespace.replace("-", "_")
    url = shared_pooler.through(shared_postgres.url)
    stores = [PostgresStore(url, Options(schema=schema, statement_cache=0)) for _ in range(8)]
    try:
        await asyncio.gather(*(store.open() for store in stores))
        epochs = await asyncio.gather(*(store.register(new_worker()) for store in stores))
        assert len(set(epochs)) == 8
    finally:
        for store in stores:
            await store.aclose()
        await shared_postgres.execute(f"DROP SCHEMA {schema} CASCADE")


async def test_looking_at_the_schema_needs_no_session(shared_pooler: Pooler) -> None:
    async with shared_pooler.store() as store:
        epoch = await store.register(new_worker())
        working = asyncio.gather(*(lives(store, epoch, f"t{at}", 3) for at in range(10)))
        for inspected in await asyncio.gather(*(store.inspect() for _ in range(10))):
            assert inspected.version == inspected.newest
        await working


# ---- a setting that was forgotten ----------------------------------------------------------------------


async def test_a_pooler_that_refuses_the_sessions_settings_is_reported_at_once(shared_pooler: Pooler) -> None:
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match=SETTING):
        async with shared_pooler.store(statement_cache=200) as store:
            await store.register(new_worker())
    assert time.monotonic() - began < 3


async def test_a_pooler_that_forgets_prepared_statements_is_reported(shared_postgres: Database) -> None:
    with (
        pooler(shared_postgres, ignore_startup_parameters=OURS) as forgetful,
        pytest.raises(StoreUnavailable, match=SETTING),
    ):
        async with forgetful.store(statement_cache=200) as store:
            await asyncio.gather(*(use(store) for _ in range(20)))


async def use(store: PostgresStore) -> None:
    for _ in range(20):
        await store.workers()
        await store.row("r")
        await store.holder("t")


# ---- other modes ---------------------------------------------------------------------------------------


async def test_session_mode_that_takes_the_sessions_settings(shared_postgres: Database) -> None:
    with pooler(shared_postgres, size=20, pool_mode="session", ignore_startup_parameters=OURS) as sessions:
        async with sessions.store(statement_cache=200) as store:
            epoch = await store.register(new_worker())
            await asyncio.gather(*(lives(store, epoch, f"t{at}", 3) for at in range(10)))


async def test_session_mode_that_refuses_the_sessions_settings_is_refused_with_the_setting_to_take(
    shared_postgres: Database,
) -> None:
    with (
        pooler(shared_postgres, pool_mode="session") as sessions,
        pytest.raises(StoreUnavailable, match=f"ignore_startup_parameters = {OURS}"),
    ):
        async with sessions.store(statement_cache=200):
            raise AssertionError("it has opened")


async def test_statement_mode_refuses_an_inspection_and_names_the_remedy(shared_postgres: Database) -> None:
    with pooler(shared_postgres, pool_mode="statement") as statements:
        async with statements.store() as store:
            with pytest.raises(StoreUnavailable, match="the address without a pooler"):
                await store.inspect()


async def test_statement_mode_carries_all_calls_of_a_worker(shared_postgres: Database) -> None:
    with pooler(shared_postgres, pool_mode="statement") as statements:
        async with statements.store() as store:
            epoch = await store.register(new_worker())
            await asyncio.gather(*(lives(store, epoch, f"t{at}", 3) for at in range(10)))
            own = await running(store, epoch)
            assert (await cancel(store, own.run_id)).won
            await store.tick(epoch)
            assert await store.retire(epoch)


# ---- hints ---------------------------------------------------------------------------------------------


def settings_for(store: str, schema: str, **others: Any) -> Settings:
    known: dict[str, Any] = {"store": store, "postgres_schema": schema, "postgres_statement_cache": 0}
    return Settings(**{**QUICK, **known, **others})


async def agent(ctx: RunContext) -> None:
    await ctx.abort_event.wait()


async def test_worker_without_hints_through_a_pooler_warns_once_and_polls_often(
    shared_pooler: Pooler, shared_postgres: Database, caplog: pytest.LogCaptureFixture
) -> None:
    async with shared_postgres.worker() as (url, schema), AsyncExitStack() as stack:
        settings = settings_for(shared_pooler.through(url), schema)
        with caplog.at_level(logging.WARNING):
            owner, other = [
                await stack.enter_async_context(open_coordinator(settings=settings)) for _ in range(2)
            ]
            for manager in (owner, other):
                await wait_until(
                    lambda manager=manager: manager.worker.connectivity is Connectivity.down,
                    description="it has found out",
                )
            run = await owner.create_or_reject("t")
            owner.launch(run, agent)
            await wait_until(lambda: run.status is RunStatus.running, description="it runs")
            assert await other.cancel(run.run_id, wait=5), "the short tick finds it"
            await asyncio.sleep(2)  # its silence during further attempts is the subject
        warnings = [record for record in caplog.records if "postgres_notify_url" in record.getMessage()]
        assert len(warnings) == 2, [record.getMessage() for record in caplog.records]
        assert {record.levelno for record in warnings} == {logging.WARNING}


async def test_hints_have_an_address_of_their_own(shared_pooler: Pooler, shared_postgres: Database) -> None:
    async with shared_postgres.worker() as (url, schema), AsyncExitStack() as stack:
        no_look: dict[str, Any] = {"tick": 600.0, "short_tick": 600.0}
        settings = settings_for(shared_pooler.through(url), schema, postgres_notify_url=url, **no_look)
        owner, other = [
            await stack.enter_async_context(open_coordinator(settings=settings)) for _ in range(2)
        ]
        for manager in (owner, other):
            await wait_until(
                lambda manager=manager: manager.worker.connectivity is Connectivity.connected,
                description="it is connected",
            )
        run = await owner.create_or_reject("t")
        owner.launch(run, agent)
        await wait_until(lambda: run.status is RunStatus.running, description="it runs")
        assert await other.cancel(run.run_id, wait=5)


# ---- what is in its way --------------------------------------------------------------------------------


async def test_as_many_sessions_as_may_wait_and_some_more_delay_no_heartbeat(
    shared_postgres: Database,
) -> None:
    """As the guide has it: `default_pool_size` above what all workers together may have waiting."""
    with pooler(shared_postgres, size=6) as wide:
        async with wide.store(connections=2, busy_timeout=10.0) as store, shared_postgres.connection() as cx:
            epoch = await store.register(new_worker())
            await running(store, epoch)
            other = await running(store, epoch, "other")
            transaction = cx.transaction()
            await transaction.start()
            await cx.execute(f"SELECT FROM {store.schema}.threads WHERE thread_id = 't' FOR UPDATE")
            stuck = [
                asyncio.create_task(admitted(store, epoch, "t", multitask_strategy="enqueue"))
                for _ in range(4)
            ]
            await wait_until(
                lambda: sessions_of(store) == 2,
                description="both connections wait for the lock",
            )
            assert await store.beat(epoch)
            decision = await cancel(store, other.run_id)
            assert decision is not None
            assert decision.won
            assert not any(task.done() for task in stuck), "they wait, and the others have been answered"
            await transaction.rollback()
            await asyncio.gather(*stuck, return_exceptions=True)
        assert len(stuck) == 4


async def test_a_pooler_that_is_restarted(shared_postgres: Database) -> None:
    with pooler(shared_postgres) as own:
        async with own.store() as store:
            epoch = await store.register(new_worker())
            before = await running(store, epoch)
            working = [asyncio.create_task(lives(store, epoch, f"t{at}", 10)) for at in range(4)]
            await asyncio.sleep(0)
            own.kill()
            own.start()
            await asyncio.gather(*working)
            assert (await store.finish(before, SUCCESS)).status is RunStatus.success
            assert (await row_of(store, before.run_id)).status is RunStatus.success


async def test_a_session_that_a_stopped_worker_keeps_is_given_back(shared_postgres: Database) -> None:
    """Stopped in the middle of a call: the pooler has handed it a session, and waits for the rest. As the
    guide has it, `query_timeout` ends that."""
    with pooler(shared_postgres, size=1, query_timeout="1") as narrow:
        async with narrow.store() as store, shared_postgres.proxied(narrow.url_of(store)) as (way, url):
            stopped = PostgresStore(url, options_of(store), migrate=False)
            await stopped.open()
            assert await stopped.row("r") is None
            way.drop_replies = 1
            hanging = asyncio.create_task(stopped.row("r"))
            await wait_until(lambda: not way.drop_replies, description="it is in the middle of its call")
            began = time.monotonic()
            assert await store.register(new_worker())
            assert time.monotonic() - began < 4
            assert await hanging is None, "the call notices that, and is repeated"
            await stopped.aclose()
