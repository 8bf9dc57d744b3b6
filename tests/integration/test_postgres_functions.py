"""Which revision of the functions a schema has, who may replace it, and what becomes of changes by hand."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any
from uuid import uuid4

import pytest

from stores.errors import StoreRefused, StoreUnavailable
from stores.postgres import Options, PostgresStore
from stores.sql.postgres import installed, schema, scripts
from tests.support.builders import SUCCESS, new_worker, running, waiting
from tests.support.command_line import DONE, FAILED, Answer, cli
from tests.support.postgres import PASSWORD, Database

OTHER_BODY = (
    "CREATE OR REPLACE FUNCTION rc.last_run(_thread_id text) RETURNS text LANGUAGE sql AS $$SELECT 'x'$$"
)


@pytest.fixture
async def name(shared_postgres: Database) -> AsyncGenerator[str]:
    """A migrated schema of the test's own."""
    made = f"made_{uuid4().hex[:12]}"
    async with shared_postgres.connection() as cx:
        await schema.migrate(cx, made)
    yield made
    await shared_postgres.execute(f"DROP SCHEMA {made} CASCADE")


async def run(database: Database, name: str, *statements: str) -> None:
    await database.execute(*(scripts.named(statement, name) for statement in statements))


async def body(database: Database, name: str, function: str) -> Any:
    query = "SELECT max(prosrc) FROM pg_proc WHERE pronamespace = $1::regnamespace AND proname = $2"
    async with database.connection() as cx:
        return await cx.fetchval(query, name, function)


async def admin(database: Database, name: str, *args: str) -> Answer:
    return await cli(*args, env={"COORDINATOR_STORE": database.url, "COORDINATOR_POSTGRES_SCHEMA": name})


async def opened(database: Database, name: str, **kwargs: Any) -> None:
    store = PostgresStore(database.url, Options(schema=name), **kwargs)
    await store.open()
    await store.aclose()


def test_list_of_revisions_ends_with_the_functions_that_are_there() -> None:
    assert scripts.revisions()[-1] == scripts.revision(), "run `make format`"
    assert len(set(scripts.revisions())) == len(scripts.revisions())


def test_every_function_of_a_migration_can_be_made_again() -> None:
    assert set(scripts.functions_of_migrations()) == {
        "as_jsonb",
        "audit_due",
        "audit_home",
        "audit_insert",
        "audit_update",
        "project_run",
        "project_transitions",
        "remove_events",
    }


async def test_functions_of_a_program_that_recorded_no_revision_are_replaced_at_open(
    shared_postgres: Database, name: str
) -> None:
    wanted = await body(shared_postgres, name, "last_run")
    await run(shared_postgres, name, "COMMENT ON COLUMN rc.schema_version.name IS NULL", OTHER_BODY)
    with pytest.raises(StoreUnavailable, match=r"functions.*db migrate"):
        await opened(shared_postgres, name, migrate=False)
    check = await admin(shared_postgres, name, "db", "check")
    assert (check.code, "older program" in check.out) == (FAILED, True)
    await opened(shared_postgres, name)
    assert await body(shared_postgres, name, "last_run") == wanted
    assert (await admin(shared_postgres, name, "db", "check")).code == DONE


async def test_functions_of_an_earlier_revision_are_replaced_at_open(
    shared_postgres: Database, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = ("SELECT 1;", *scripts.functions())
    revisions = scripts.revisions()
    monkeypatch.setattr(scripts, "functions", lambda: later)
    monkeypatch.setattr(schema, "functions", lambda: later)
    for module in (scripts, installed):
        monkeypatch.setattr(module, "revisions", lambda: (*revisions, scripts.revision()))
    await opened(shared_postgres, name)
    async with shared_postgres.connection() as cx:
        recorded = await installed.recorded(cx, name)
    assert recorded is not None
    assert recorded.revision == scripts.revision() != revisions[-1]


async def test_older_program_leaves_the_functions_of_a_newer_one_alone(
    shared_postgres: Database, name: str
) -> None:
    async with shared_postgres.connection() as cx, cx.transaction():
        await cx.execute(scripts.named(OTHER_BODY, name))
        await installed.install(cx, name, ())
        comment: str = await cx.fetchval(
            "SELECT replace(col_description(to_regclass($1), 2), $2, 'ffffffffffffffff')",
            f"{name}.schema_version",
            scripts.revision(),
        )
        await cx.execute(f"COMMENT ON COLUMN {name}.schema_version.name IS '{comment}'")
    await opened(shared_postgres, name)
    await opened(shared_postgres, name, migrate=False)
    assert (await admin(shared_postgres, name, "db", "migrate")).code == DONE
    assert await body(shared_postgres, name, "last_run") == "SELECT 'x'"
    assert (await admin(shared_postgres, name, "db", "check")).code == DONE


@pytest.mark.parametrize(
    ("damage", "reported"),
    [
        (OTHER_BODY, "function last_run(_thread_id text) was changed"),
        (
            "ALTER FUNCTION rc.last_run(text) SET enable_seqscan = off",
            "last_run(_thread_id text) was changed",
        ),
        ("DROP FUNCTION rc.delete_cron(text, text)", "delete_cron(_cron_id text, _user_id text) is missing"),
        ("ALTER FUNCTION rc.audit_due() SET enable_seqscan = off", "audit_due() was changed"),
    ],
    ids=["other body", "other setting", "dropped", "of a migration"],
)
async def test_function_that_was_changed_by_hand_is_named_by_check_and_put_back_by_migrate(
    shared_postgres: Database, name: str, damage: str, reported: str
) -> None:
    async with shared_postgres.connection() as cx:
        before = await installed.recorded(cx, name)
    await run(shared_postgres, name, damage)
    check = await admin(shared_postgres, name, "db", "check")
    assert (check.code, reported in check.out) == (FAILED, True), check.out
    repaired = await admin(shared_postgres, name, "db", "migrate", "--json")
    assert [one in reported for one in repaired.document["migrate"]["repaired"]] == [True]
    assert (await admin(shared_postgres, name, "db", "check")).code == DONE
    async with shared_postgres.connection() as cx:
        assert await installed.recorded(cx, name) == before


async def test_role_without_the_right_to_replace_functions_is_refused_with_who_has_it(
    shared_postgres: Database, name: str
) -> None:
    role = f"role_{uuid4().hex[:12]}"
    await shared_postgres.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")
    try:
        assert (await admin(shared_postgres, name, "db", "migrate", "--grant-to", role)).code == DONE
        await run(shared_postgres, name, "COMMENT ON COLUMN rc.schema_version.name IS NULL")
        with pytest.raises(StoreRefused, match=r"functions.*db migrate"):
            await PostgresStore(shared_postgres.as_role(role), Options(schema=name)).open()
    finally:
        await shared_postgres.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


async def test_workers_of_the_previous_release_read_their_tick(shared_postgres: Database, name: str) -> None:
    """Named `tick`, with a row for each run that waits."""
    store = PostgresStore(shared_postgres.url, Options(schema=name))
    await store.open()
    try:
        me = await store.register(new_worker())
        own, waits = await running(store, me, "busy"), await waiting(store, me, "busy")
        freed, next_ = await running(store, me, "free"), await waiting(store, me, "free")
        await store.finish(freed, SUCCESS)
    finally:
        await store.aclose()
    async with shared_postgres.connection() as cx:
        rows = await cx.fetch(f"SELECT what, run_id, thread_id, free FROM {name}.tick($1, NULL)", me)
    by_kind = {kind: [row for row in rows if row["what"] == kind] for kind in ("held", "waiting", "due")}
    assert json.loads(by_kind["held"][0]["run_id"]) == [own.run_id]
    assert {row["run_id"] for row in by_kind["waiting"]} == {waits, next_}
    assert [(row["thread_id"], row["free"]) for row in by_kind["due"]] == [("free", True)]
