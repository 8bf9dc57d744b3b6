"""Whose schema it is, who may change it, and what happens when several workers find it old or absent."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import ExitStack
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from coordinator import RunContext, open_coordinator
from stores.errors import StoreRefused, StoreUnavailable
from stores.postgres import Options, PostgresStore
from stores.sql.migration import FIRST, Migration
from stores.sql.postgres import schema, scripts
from tests.support.builders import new_worker
from tests.support.children import Child
from tests.support.command_line import DONE, FAILED, UNREACHABLE, USAGE, Answer, cli
from tests.support.postgres import PASSWORD, Database

NUMBERS = [migration.number for migration in schema.migrations()]
NEWEST = NUMBERS[-1]
STEPS = len(schema.migrations())
NEXT = Migration(NEWEST + 1, f"{NEWEST + 1:04}_next", "ALTER TABLE rc.workers ADD COLUMN next_column int;")

OPEN = """
import asyncio
from stores.postgres import Options, PostgresStore
async def main():
    store = PostgresStore(args[0], Options(schema=args[1]))
    send("ready")
    receive()
    await store.open()
    send("open")
    await store.aclose()
asyncio.run(main())
"""


@pytest.fixture
async def name(shared_postgres: Database) -> AsyncGenerator[str]:
    """Of a schema, and of a role, that are not there yet. Gone at the end."""
    made = f"made_{uuid4().hex[:12]}"
    yield made
    async with shared_postgres.connection() as cx:
        await cx.execute(f"DROP SCHEMA IF EXISTS {made} CASCADE")
        if await cx.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", made):
            await cx.execute(f"DROP OWNED BY {made}; DROP ROLE {made}")


async def in_schema(database: Database, name: str, query: str) -> Any:
    async with database.connection() as cx:
        return await cx.fetchval(schema.named(query, name))


async def admin(database: Database, name: str, *args: str) -> Answer:
    return await cli(*args, env={"COORDINATOR_STORE": database.url, "COORDINATOR_POSTGRES_SCHEMA": name})


def test_migrations_are_numbered_in_ascending_order() -> None:
    assert NUMBERS[0] == FIRST
    assert sorted(set(NUMBERS)) == NUMBERS


async def test_workers_that_start_at_once_migrate_once(shared_postgres: Database, name: str) -> None:
    with ExitStack() as stack:
        team = [stack.enter_context(Child(OPEN, shared_postgres.url, name)) for _ in range(3)]
        for child in team:
            assert child.receive() == "ready"
        for child in team:
            child.send()
        assert [child.receive() for child in team] == ["open"] * 3
    assert await in_schema(shared_postgres, name, "SELECT count(*) FROM rc.schema_version") == STEPS


async def test_an_older_schema_is_brought_up_to_date_with_what_is_in_it(
    shared_postgres: Database, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = schema.migrations()
    async with shared_postgres.connection() as cx:
        assert await schema.migrate(cx, name) == [migration.name for migration in every]
        await cx.execute(
            schema.named(
                "INSERT INTO rc.threads (thread_id, created_at, updated_at) VALUES ('t', 1, 1)", name
            )
        )
    for module in (schema, scripts):
        monkeypatch.setattr(module, "migrations", lambda: (*every, NEXT))
    store = PostgresStore(shared_postgres.url, Options(schema=name), migrate=False)
    with pytest.raises(StoreUnavailable, match="db migrate"):
        await store.open()
    store = PostgresStore(shared_postgres.url, Options(schema=name))
    await store.open()
    assert (await store.thread("t")) is not None
    await store.aclose()
    assert await in_schema(shared_postgres, name, "SELECT max(version) FROM rc.schema_version") == NEXT.number


@pytest.mark.parametrize("command", [("runs", "list"), ("db", "check"), ("db", "migrate")], ids=" ".join)
async def test_another_programs_schema_is_refused_and_untouched(
    shared_postgres: Database, name: str, command: tuple[str, ...]
) -> None:
    await shared_postgres.execute(f"CREATE SCHEMA {name}", f"CREATE TABLE {name}.runs (x int)")
    answer = await admin(shared_postgres, name, *command, "--json")
    assert (answer.code, answer.error["type"]) == (UNREACHABLE, "StoreRefused")
    tables = "SELECT count(*) FROM pg_class WHERE relnamespace = 'rc'::regnamespace"
    assert await in_schema(shared_postgres, name, tables.replace("'rc'", f"'{name}'")) == 1


async def test_schema_of_before_the_first_release_is_refused_with_what_to_do(
    shared_postgres: Database, name: str
) -> None:
    await shared_postgres.execute(
        f"CREATE SCHEMA {name}",
        f"CREATE TABLE {name}.schema_version (version int PRIMARY KEY, name text, applied_at text)",
        f"COMMENT ON TABLE {name}.schema_version IS 'run-coordinator'",
        f"INSERT INTO {name}.schema_version VALUES (19, '0019_event_logs', '')",
    )
    for command in (("runs", "list"), ("db", "check"), ("db", "migrate")):
        answer = await admin(shared_postgres, name, *command, "--json")
        assert (answer.code, answer.error["type"]) == (UNREACHABLE, "SchemaTooOld")
        assert "start with a new file or schema" in answer.error["message"]
    assert await in_schema(shared_postgres, name, "SELECT max(version) FROM rc.schema_version") == 19


async def test_a_newer_schema_is_refused(shared_postgres: Database, name: str) -> None:
    async with shared_postgres.connection() as cx:
        await schema.migrate(cx, name)
        await cx.execute(
            f"INSERT INTO {name}.schema_version (version, name, applied_at) VALUES (9999, 'newer', '')"
        )
    with pytest.raises(StoreRefused, match="upgrade"):
        await PostgresStore(shared_postgres.url, Options(schema=name)).open()


async def test_migrate_and_check_from_the_command_line(shared_postgres: Database, name: str) -> None:
    before = await admin(shared_postgres, name, "db", "check", "--json")
    assert (before.code, before.document["check"]["version"]) == (FAILED, 0)
    first = await admin(shared_postgres, name, "db", "migrate", "--json")
    assert first.code == DONE, first.err
    assert [step["number"] for step in first.document["migrate"]["applied"]] == NUMBERS
    second = await admin(shared_postgres, name, "db", "migrate")
    assert "is up to date" in second.out
    after = await admin(shared_postgres, name, "db", "check", "--json")
    check = after.document["check"]
    assert (after.code, check["version"], check["ok"]) == (DONE, NEWEST, True)
    password = shared_postgres.url.partition("@")[0].rpartition(":")[2]
    for answer in (before, first, second, after):
        assert password not in answer.out + answer.err


async def test_errors_of_searches_without_result_do_not_show_the_password(
    shared_postgres: Database, name: str
) -> None:
    async with shared_postgres.connection() as cx:
        await schema.migrate(cx, name)
    password = shared_postgres.url.partition("@")[0].rpartition(":")[2]
    for command in (
        ("runs", "list"),
        ("runs", "show", "r"),
        ("threads", "list"),
        ("webhooks", "list"),
        ("webhooks", "retry", "r"),
        ("crons", "list"),
        ("crons", "delete", "c"),
    ):
        answer = await admin(shared_postgres, name, *command)
        assert "postgres" in answer.out + answer.err, command
        assert password not in answer.out + answer.err, command


async def test_what_has_no_roles_grants_nothing() -> None:
    answer = await cli("db", "migrate", "--store", "sqlite:///x.db", "--grant-to", "w", "--json")
    assert (answer.code, answer.error["argument"]) == (USAGE, "grant_to")


# ---- the rights of a worker ----------------------------------------------------------------------------


async def echo(ctx: RunContext) -> Any:
    await ctx.save({"seen": ctx.run.kwargs})
    return ctx.run.kwargs["text"]


async def test_a_worker_runs_with_the_least_rights(shared_postgres: Database, name: str) -> None:
    await shared_postgres.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'")
    granted = await admin(shared_postgres, name, "db", "migrate", "--grant-to", name, "--json")
    assert json.loads(granted.out)["migrate"]["granted_to"] == name
    url = shared_postgres.as_role(name)
    async with open_coordinator(url, postgres_schema=name) as manager:
        run = await manager.create_or_reject("t", "a", kwargs={"text": "hello"})
        manager.launch(run, echo)
        assert await manager.wait(run.run_id, timeout=10) == "hello"
    cx = await asyncpg.connect(url)
    try:
        for forbidden in (
            f"DROP TABLE {name}.runs",
            f"ALTER TABLE {name}.runs DISABLE TRIGGER ALL",
            f"TRUNCATE {name}.runs",
            f"CREATE TABLE {name}.mine (x int)",
            f"UPDATE {name}.schema_version SET version = 1",
            f"CREATE OR REPLACE FUNCTION {name}.clock(bigint) RETURNS bigint LANGUAGE sql AS 'SELECT 1'",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await cx.execute(forbidden)
    finally:
        await cx.close()


async def test_what_a_later_migration_makes_is_the_workers_as_well(
    shared_postgres: Database, name: str
) -> None:
    await shared_postgres.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'")
    await admin(shared_postgres, name, "db", "migrate", "--grant-to", name)
    await shared_postgres.execute(f"CREATE TABLE {name}.later (x int)")
    cx = await asyncpg.connect(shared_postgres.as_role(name))
    try:
        await cx.execute(f"INSERT INTO {name}.later VALUES (1)")
    finally:
        await cx.close()


async def test_a_worker_without_the_right_to_migrate_is_refused_with_the_command(
    shared_postgres: Database, name: str
) -> None:
    await shared_postgres.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'")
    with pytest.raises(StoreRefused, match="db migrate"):
        await PostgresStore(shared_postgres.as_role(name), Options(schema=name)).open()


async def test_a_worker_of_another_schema_sees_nothing_of_it(shared_postgres: Database) -> None:
    async with shared_postgres.worker() as (_, one), shared_postgres.worker() as (url, _):
        with pytest.raises(StoreRefused, match="right"):
            await PostgresStore(url, Options(schema=one), migrate=False).open()


async def test_check_counts_workers_of_each_version(shared_postgres: Database, name: str) -> None:
    store = PostgresStore(shared_postgres.url, Options(schema=name))
    await store.open()
    for version in ("1", "2", "2"):
        await store.register(new_worker(version=version))
    await store.aclose()
    assert (await store.inspect()).versions == {"1": 1, "2": 2}
    assert "1 of 1, 2 of 2" in (await admin(shared_postgres, name, "db", "check")).err
