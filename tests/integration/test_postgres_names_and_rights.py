"""Names that a schema may have, and what an owner needs who may create nothing else in the database."""

from __future__ import annotations

from uuid import uuid4

import asyncpg
import pytest

from coordinator import open_coordinator
from stores.errors import StoreUnavailable
from stores.postgres import Options, PostgresStore
from stores.postgres.faults import fault_of
from tests.support.agents import quick
from tests.support.command_line import DONE, FAILED, USAGE, cli
from tests.support.postgres import PASSWORD, Database


async def test_owner_of_a_schema_needs_no_right_to_create_one(shared_postgres: Database) -> None:
    name = f"made_{uuid4().hex[:12]}"
    await shared_postgres.execute(
        f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'", f"CREATE SCHEMA {name} AUTHORIZATION {name}"
    )
    env = {"COORDINATOR_STORE": shared_postgres.as_role(name), "COORDINATOR_POSTGRES_SCHEMA": name}
    try:
        answer = await cli("db", "migrate", env=env)
        assert answer.code == DONE, answer.err
        assert (await cli("db", "check", env=env)).code == DONE
    finally:
        await shared_postgres.execute(f"DROP OWNED BY {name}", f"DROP ROLE {name}")


@pytest.mark.parametrize("name", ["user", "order", "all", "select"])
async def test_schema_may_have_a_keyword_for_a_name(shared_postgres: Database, name: str) -> None:
    env = {"COORDINATOR_STORE": shared_postgres.url, "COORDINATOR_POSTGRES_SCHEMA": name}
    try:
        migrated = await cli("db", "migrate", "--grant-to", "postgres", env=env)
        assert migrated.code == DONE, migrated.err
        async with open_coordinator(shared_postgres.url, postgres_schema=name) as manager:
            run = await manager.create_or_reject("t")
            manager.launch(run, quick)
            assert await manager.wait(run.run_id, timeout=20) == f"done {run.run_id}"
            assert (await manager.worker.health()).ready
        assert (await cli("db", "check", env=env)).code == DONE
    finally:
        await shared_postgres.execute(f'DROP SCHEMA IF EXISTS "{name}" CASCADE')


@pytest.mark.parametrize("name", ["pg_runs", "pg_", "Runs", "a-b", ""])
async def test_other_names_are_refused_before_anything_is_connected(name: str) -> None:
    env = {"COORDINATOR_STORE": "postgresql://unknown@127.0.0.1:1/x", "COORDINATOR_POSTGRES_SCHEMA": name}
    answer = await cli("db", "migrate", env=env)
    assert (answer.code, "schema" in answer.err.lower()) == (USAGE, True), answer.err


async def test_missing_function_is_reported_with_what_finds_and_recreates_it(
    shared_postgres: Database,
) -> None:
    name = f"made_{uuid4().hex[:12]}"
    env = {"COORDINATOR_STORE": shared_postgres.url, "COORDINATOR_POSTGRES_SCHEMA": name}
    store = PostgresStore(shared_postgres.url, Options(schema=name))
    try:
        await store.open()
        await shared_postgres.execute(f"DROP FUNCTION {name}.delete_cron(text, text)")
        with pytest.raises(StoreUnavailable, match="db check"):
            await store.delete_cron("c", user_id=None)
        assert (await cli("db", "check", env=env)).code == FAILED
        assert (await cli("db", "migrate", env=env)).code == DONE
        assert await store.delete_cron("c", user_id=None) is False
    finally:
        await store.aclose()
        await shared_postgres.execute(f"DROP SCHEMA {name} CASCADE")


async def test_error_of_the_server_keeps_its_own_words(shared_postgres: Database) -> None:
    async with shared_postgres.connection() as cx:
        with pytest.raises(asyncpg.UndefinedTableError) as raised:
            await cx.execute("SELECT FROM missing")
    fault = fault_of(raised.value)
    assert fault.what == 'a table of the schema does not exist: relation "missing" does not exist'
