"""A store that a newer program has migrated: who may go on with it, and what is done unasked."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

import pytest

from coordinator import RunManager, open_coordinator
from stores.errors import SchemaTooNew, StoreRefused
from stores.postgres import Options, PostgresStore
from stores.sql.migration import Migration, oldest_program
from stores.sql.postgres import schema as postgres_schema
from stores.sql.postgres import scripts
from stores.sql.sqlite import schema as sqlite_schema
from stores.sqlite import SQLiteStore
from tests.support.agents import quick
from tests.support.builders import new_worker, sql_of
from tests.support.command_line import DONE, UNREACHABLE, Answer, cli
from tests.support.postgres import Database

Store = SQLiteStore | PostgresStore


class Case:
    """A store of one engine, as programs of several versions open it."""

    def __init__(
        self, url: str, schema: str, make: Callable[[], Any], modules: tuple[ModuleType, ...]
    ) -> None:
        self.url, self.schema, self.make, self._modules = url, schema, make, modules
        self.newest: int = modules[0].migrations()[-1].number

    def knows(self, patch: pytest.MonkeyPatch, *later: str) -> None:
        """From here on the program has these migrations besides."""
        every = self._modules[0].migrations()
        number = every[-1].number
        made = [Migration(number + at, f"{number + at:04}_later", sql) for at, sql in enumerate(later, 1)]
        for module in self._modules:
            patch.setattr(module, "migrations", lambda: (*every, *made))

    async def cli(self, *args: str) -> Answer:
        return await cli(
            *args, env={"COORDINATOR_STORE": self.url, "COORDINATOR_POSTGRES_SCHEMA": self.schema}
        )


@pytest.fixture(params=["sqlite", "postgres"])
async def case(
    request: pytest.FixtureRequest, tmp_path: Path, shared_postgres: Database
) -> AsyncGenerator[Case]:
    if request.param == "sqlite":
        path = tmp_path / "runs.db"
        yield Case(f"sqlite:///{path}", "unused", lambda: SQLiteStore(path), (sqlite_schema,))
        return
    name = f"made_{uuid4().hex[:12]}"

    def make() -> PostgresStore:
        return PostgresStore(shared_postgres.url, Options(schema=name))

    yield Case(shared_postgres.url, name, make, (postgres_schema, scripts))
    await shared_postgres.execute(f"DROP SCHEMA IF EXISTS {name} CASCADE")


ADDS = "ALTER TABLE rc.workers ADD COLUMN later_column int;\n"
BREAKS = "-- oldest program: {}\nALTER TABLE rc.workers ADD COLUMN later_column int;\n"


def sql_for(case: Case, sql: str) -> str:
    return sql if case.url.startswith("postgres") else sql.replace("rc.", "")


async def migrated(case: Case, *later: str) -> None:
    """By a program that has these migrations besides."""
    with pytest.MonkeyPatch.context() as patch:
        case.knows(patch, *(sql_for(case, sql) for sql in later))
        store = case.make()
        await store.open()
        await store.aclose()


async def test_older_program_works_on_a_newer_schema_within_the_window(case: Case) -> None:
    await migrated(case, ADDS)
    async with open_coordinator(case.url, postgres_schema=case.schema) as manager:
        run = await manager.create_or_reject("t")
        manager.launch(run, quick)
        await manager.wait(run.run_id, timeout=20)
        assert (await manager.worker.health()).ready
    check = await case.cli("db", "check")
    assert check.code == DONE
    assert "newer than this program's" in check.err
    assert (await case.cli("db", "migrate")).code == DONE
    listed = await case.cli("runs", "list")
    assert run.run_id in listed.out


async def test_program_outside_of_the_window_is_refused_with_what_to_do(case: Case) -> None:
    await migrated(case, BREAKS.format(case.newest + 1))
    store = case.make()
    with pytest.raises(SchemaTooNew, match="upgrade run-coordinator") as refused:
        await store.open()
    expected = (case.newest + 1, case.newest + 1, case.newest)
    assert (refused.value.version, refused.value.oldest, refused.value.newest) == expected
    for command in (("db", "check"), ("db", "migrate"), ("runs", "list")):
        answer = await case.cli(*command, "--json")
        assert (answer.code, answer.error["type"]) == (UNREACHABLE, "SchemaTooNew")


async def test_window_of_an_earlier_migration_stands_until_another_one_moves_it(case: Case) -> None:
    await migrated(case, BREAKS.format(case.newest + 1), ADDS.replace("later", "latest"))
    with pytest.raises(SchemaTooNew):
        await case.make().open()
    with pytest.MonkeyPatch.context() as patch:
        case.knows(patch, sql_for(case, BREAKS.format(case.newest + 1)))
        store = case.make()
        await store.open()
        await store.aclose()


async def test_running_worker_that_the_schema_has_left_behind_is_not_ready(case: Case) -> None:
    async with open_coordinator(case.url, postgres_schema=case.schema) as manager:
        assert (await manager.worker.health()).ready
        with pytest.MonkeyPatch.context() as patch:
            case.knows(patch, sql_for(case, BREAKS.format(case.newest + 1)))
            await case.make().migrate()
        health = await _health(manager)
        assert not health.ready
        assert ["upgrade run-coordinator" in why for why in health.why_not] == [True]


async def _health(manager: RunManager) -> Any:
    return await manager.worker.health()


async def test_breaking_migration_is_not_done_unasked_beside_live_workers(case: Case) -> None:
    older = case.make()
    await older.open()
    await older.register(new_worker())
    with pytest.MonkeyPatch.context() as patch:
        case.knows(patch, sql_for(case, BREAKS.format(case.newest + 1)))
        with pytest.raises(StoreRefused, match=r"1 live workers.*db migrate"):
            await case.make().open()
        assert await case.make().migrate() == [f"{case.newest + 1:04}_later"]
    await older.aclose()


async def test_breaking_migration_is_done_unasked_when_no_worker_lives(case: Case) -> None:
    older = case.make()
    await older.open()
    await older.register(new_worker())
    sql_of(older)("UPDATE workers SET lease_until = 1")
    await older.aclose()
    await migrated(case, BREAKS.format(case.newest + 1))


def test_migration_without_the_line_keeps_the_oldest_program() -> None:
    first, breaks, adds = (Migration(n, "m", sql) for n, sql in ((1, ADDS), (2, BREAKS.format(2)), (3, ADDS)))
    assert oldest_program([first]) == 1
    assert oldest_program([first, breaks]) == 2
    assert oldest_program([first, breaks, adds]) == 2
