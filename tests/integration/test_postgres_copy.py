"""A deployment moves from a file to a server: all of it, once, and only while no worker uses the file."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from stores import copying
from stores.catalogue import NewThread
from stores.copying import copy
from stores.errors import StoreRefused
from stores.postgres import Options, PostgresStore
from stores.rows import Outcome
from stores.sqlite import SQLiteStore
from stores.states import CancelAction, RunStatus
from tests.support.builders import (
    StoreClock,
    admitted,
    cancel,
    new_worker,
    running,
    waiting,
)
from tests.support.command_line import DONE, UNREACHABLE, USAGE, cli
from tests.support.postgres import Database

ODD = "\0 \U0010ffff \ud800 é \u2028"


class Interrupted(Exception):
    pass


@pytest.fixture
async def target(shared_postgres: Database) -> AsyncGenerator[PostgresStore]:
    """A schema that is not there yet."""
    name = f"copy_{uuid4().hex[:12]}"
    store = PostgresStore(shared_postgres.url, Options(schema=name))
    yield store
    await store.aclose()
    await shared_postgres.execute(f"DROP SCHEMA IF EXISTS {name} CASCADE")


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """A file with a bit of everything, and without a worker that uses it."""
    clock = StoreClock()
    store = SQLiteStore(tmp_path / "runs.db", clock=clock, synchronous="NORMAL")
    await store.open()
    epoch = await store.register(new_worker(assistants=("a", "b")))
    for number in range(30):
        own = await running(store, epoch, f"t{number % 7}", user_id="é", metadata={"x": ODD})
        await store.save(own, {"text": ODD, "n": number})
        clock.advance(1)
        await store.finish(own, Outcome(RunStatus.error, error=f"failed: {ODD}"))
    await admitted(store, epoch, "held", webhook="https://example.com/hook", idempotency_key="k")
    await waiting(store, epoch, "held", portable=True)
    rolled = await running(store, epoch, "rolled")
    await store.save(rolled, {"n": 1})
    await cancel(store, rolled.run_id, action=CancelAction.rollback)
    await store.create_thread(NewThread("kept", metadata={"a": [1, None, ODD]}, ttl_ms=10**9))
    await store.create_thread(NewThread("gone", ttl_ms=1000))
    clock.advance(100)
    await store.aclose()
    return store.path


async def test_everything_arrives_and_work_goes_on_there(path: Path, target: PostgresStore) -> None:
    before = await everything(SQLiteStore(path, migrate=False))
    copied = {table.table: table for table in await copy(path, target)}
    assert copied["runs"].rows == 33
    assert all(len(table.sha256) == 64 for table in copied.values())
    assert await everything(target) == before
    await target.open()
    epoch = await target.register(new_worker())
    assert epoch == max(before["workers"]) + 1
    own = await running(target, epoch, "t0")
    assert own.fence == before["fences"]["t0"] + 1
    steps = await target.transitions(own.run_id)
    assert [step.what for step in steps] == ["admitted", "started"], "its triggers are at work again"
    assert steps[0].id > before["last step"]


async def everything(store: Any) -> dict[str, Any]:
    await store.open()
    runs = sorted(await store.runs(limit=1000), key=lambda run: run.run_id)
    threads = [f"t{number}" for number in range(7)] + ["held", "rolled", "kept", "gone"]
    steps = [step for run in runs for step in await store.transitions(run.run_id)]
    content = {
        "runs": runs,
        "threads": {name: await store.thread(name) for name in threads},
        "fences": {name: thread.fence for name in threads if (thread := await store.thread(name))},
        "steps": steps,
        "last step": max(step.id for step in steps),
        "workers": [row.epoch for row in await store.workers(alive_only=False)],
        "webhooks": await store.webhooks(),
    }
    await store.aclose()
    return content


async def test_an_interrupted_copy_is_no_store_and_goes_on(
    path: Path, target: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "_PAGE", 10)

    def interrupt(progress: copying.Progress) -> None:
        if (progress.table, progress.rows) == ("runs", 20):
            raise Interrupted

    with pytest.raises(Interrupted):
        await copy(path, target, interrupt)
    with pytest.raises(StoreRefused, match="half a copy"):
        await target.open()
    copied = {table.table: table for table in await copy(path, target)}
    assert (copied["runs"].there_before, copied["runs"].rows) == (20, 33)
    await target.open()


async def test_a_living_worker_forbids_it(path: Path, target: PostgresStore) -> None:
    store = SQLiteStore(path)
    await store.open()
    epoch = await store.register(new_worker())
    with pytest.raises(StoreRefused, match=f"1 workers of .* are live .*{epoch}"):
        await copy(path, target)
    await store.retire(epoch)
    await store.aclose()
    await copy(path, target)


async def test_what_is_written_meanwhile_is_noticed(
    path: Path, target: PostgresStore, shared_postgres: Database
) -> None:
    written = False

    def write(progress: copying.Progress) -> None:
        """Commits before the comparison continues."""
        nonlocal written
        if not written and progress.doing == "compare":
            written = True
            with closing(sqlite3.connect(path)) as database, database:
                database.execute(
                    "INSERT INTO threads (thread_id, created_at, updated_at) VALUES ('late', 1, 1)"
                )

    with pytest.raises(StoreRefused, match="while it was copied"):
        await copy(path, target, write)
    with pytest.raises(StoreRefused, match="half a copy"):
        await target.open()
    with pytest.raises(StoreRefused, match=r"threads \('late'\) differs between the source and the target"):
        await copy(path, target)
    await shared_postgres.execute(f"DROP SCHEMA {target.schema} CASCADE")
    await copy(path, target)
    await target.open()
    assert await target.thread("late") is not None


async def test_a_row_that_is_not_the_same_is_named(
    path: Path, target: PostgresStore, shared_postgres: Database
) -> None:
    def stop(progress: copying.Progress) -> None:
        if progress.doing == "compare":
            raise Interrupted

    with pytest.raises(Interrupted):
        await copy(path, target, stop)
    await shared_postgres.execute(f"UPDATE {target.schema}.threads SET fence = 99 WHERE thread_id = 't3'")
    with pytest.raises(StoreRefused, match=r"threads \('t3'\) differs between the source and the target"):
        await copy(path, target)
    await shared_postgres.execute(f"DELETE FROM {target.schema}.threads WHERE thread_id = 't3'")
    with pytest.raises(StoreRefused, match=r"threads \('t3'\) differs between the source and the target"):
        await copy(path, target)


async def test_a_schema_with_something_in_it_is_left_alone(path: Path, target: PostgresStore) -> None:
    await target.open()
    await target.register(new_worker())
    with pytest.raises(StoreRefused, match="not empty"):
        await copy(path, target)
    assert [row.epoch for row in await target.workers()] == [1]


async def test_from_the_command_line(path: Path, target: PostgresStore, shared_postgres: Database) -> None:
    variables = {"COORDINATOR_POSTGRES_SCHEMA": target.schema}
    source = f"sqlite:///{path}"
    answer = await cli("db", "copy", "--from", source, "--to", shared_postgres.url, "--json", env=variables)
    assert answer.code == DONE, answer.err
    copied = answer.document["copy"]
    assert copied["tables"]["runs"]["rows"] == 33
    assert shared_postgres.url.split(":")[2].split("@")[0] not in answer.out + answer.err
    again = await cli("db", "copy", "--from", source, "--to", shared_postgres.url, "--json", env=variables)
    assert (again.code, again.error["type"]) == (UNREACHABLE, "StoreRefused")
    for wrong in (("memory://", shared_postgres.url), (source, "sqlite:///other.db")):
        refused = await cli("db", "copy", "--from", wrong[0], "--to", wrong[1], "--json", env=variables)
        assert (refused.code, refused.error["type"]) == (USAGE, "InvalidArgument")
