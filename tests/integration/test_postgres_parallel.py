"""Searches where the server would rather answer with several processes: PostgreSQL 15 as Debian has it."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest

from coordinator.servers.postgres import BIN_VARIABLE, PostgresServer
from stores.catalogue import NewThread, ThreadQuery
from stores.postgres import Options, PostgresStore
from stores.rows import Outcome
from stores.states import RunStatus
from tests.conftest import NOT_RUN
from tests.support.builders import new_worker, running
from tests.support.postgres import Database

_DEBIAN = Path("/usr/lib/postgresql/15/bin")
_EAGER = ("min_parallel_table_scan_size = 0", "parallel_setup_cost = 0", "parallel_tuple_cost = 0")


@pytest.fixture(scope="module")
def fifteen() -> Generator[Database]:
    if not (_DEBIAN / "postgres").is_file():
        pytest.skip(f"{NOT_RUN}PostgreSQL 15 of Debian is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, BIN_VARIABLE, str(_DEBIAN))
        with PostgresServer(durable=False) as server:
            yield Database(server.url(), server)


@pytest.fixture(params=["15", "tested"])
async def store(request: pytest.FixtureRequest) -> AsyncGenerator[PostgresStore]:
    """On a server that makes every query parallel that it may."""
    database: Database = request.getfixturevalue("fifteen" if request.param == "15" else "shared_postgres")
    async with database.worker() as (url, schema):
        async with database.connection() as cx:
            name = "force_parallel_mode" if cx.get_server_version().major < 16 else "debug_parallel_query"
            for setting in (f"{name} = on", *_EAGER):
                await cx.execute(f"ALTER ROLE {schema} SET {setting}")
        store = PostgresStore(url, Options(schema=schema), migrate=False)
        await store.open()
        yield store
        await store.aclose()
        async with database.connection() as cx:
            await cx.execute(f"ALTER ROLE {schema} RESET ALL")


async def test_threads_are_searched_by_values_and_by_metadata(store: PostgresStore) -> None:
    epoch = await store.register(new_worker())
    for number in range(5):
        await store.create_thread(NewThread(f"t{number}", metadata={"n": number}))
        own = await running(store, epoch, f"t{number}")
        await store.finish(own, Outcome(RunStatus.success, values={"n": number}))
    for query in (ThreadQuery(values={"n": 3}), ThreadQuery(metadata={"n": 3})):
        assert [thread.thread_id for thread in await store.threads(query, user_id=None)] == ["t3"]
        assert await store.count_threads(query, user_id=None) == 1
    assert await store.count_threads(ThreadQuery(), user_id=None) == 5
