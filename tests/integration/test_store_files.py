"""The files of a SQLite store are removed, moved, replaced or damaged under a live worker."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shutil
import sqlite3
from collections.abc import AsyncGenerator, Callable
from contextlib import closing
from pathlib import Path

import pytest

from coordinator import RunManager
from coordinator.errors import StoreRefused, StoreReplaced, StoreUnavailable
from stores.sqlite import SQLiteStore
from tests.support.agents import Agent, quick, running
from tests.support.builders import stored
from tests.support.children import Child
from tests.support.inside import assembly_of
from tests.support.teams import team_of
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_task_left")

OF_THE_DATABASE = ("", "-wal", "-shm")


def delete_all(database: Path) -> None:
    for suffix in (*OF_THE_DATABASE, "-gate"):
        Path(f"{database}{suffix}").unlink()


def delete_the_database(database: Path) -> None:
    for suffix in OF_THE_DATABASE:
        Path(f"{database}{suffix}").unlink()


def delete_the_log(database: Path) -> None:
    """What a peer does that believes itself to be alone."""
    Path(f"{database}-wal").unlink()


def delete_the_gate(database: Path) -> None:
    Path(f"{database}-gate").unlink()


def move(database: Path) -> None:
    database.rename(database.with_name("moved.db"))


def put_a_copy_in_its_place(database: Path) -> None:
    copy = database.with_name("copy.db")
    shutil.copyfile(database, copy)
    copy.replace(database)


def empty(database: Path) -> None:
    os.truncate(database, 0)


@pytest.fixture
async def manager(tmp_path: Path) -> AsyncGenerator[RunManager]:
    async with team_of(1, tmp_path, renew=0.1, busy_timeout=2.0) as (made,):
        yield made


REPLACED = [
    delete_all,
    delete_the_database,
    delete_the_log,
    delete_the_gate,
    move,
    put_a_copy_in_its_place,
    empty,
]


@pytest.mark.parametrize("change", REPLACED)
async def test_a_worker_whose_file_was_replaced_fences_itself_and_writes_nothing(
    manager: RunManager, tmp_path: Path, change: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    run, agent = await running(manager, "t")
    assert (await manager.worker.health()).ready
    with caplog.at_level(logging.WARNING):
        change(tmp_path / "runs.db")
        with pytest.raises(StoreReplaced, match="was removed or replaced"):
            await manager.create_or_reject("another")
        await agent.cancelled.wait()
        health = await manager.worker.health()
    assert not health.ready
    assert health.state == "fenced"
    assert any("was removed or replaced" in why for why in health.why_not)
    with pytest.raises(StoreReplaced):
        await manager.create_or_reject("another")
    fenced = [line for line in caplog.messages if "is fenced, because" in line]
    assert len(fenced) == 1
    assert "was removed or replaced" in fenced[0]
    assert run.run_id


async def test_replaced_file_is_logged_once_a_minute_with_the_remedy(
    manager: RunManager, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The tick is polled every 0.05 s, and heartbeats and sweeps fail as well."""
    await running(manager, "t")
    move(tmp_path / "runs.db")
    failed = [0]

    async def often() -> bool:
        with pytest.raises(StoreReplaced):
            await manager.create_or_reject("another")
        failed[0] += 1
        return failed[0] >= 20

    await wait_until(often, description="many calls fail")
    lines = [record for record in caplog.records if "runs.db was" in record.getMessage()]
    levels = [(record.name, record.levelname) for record in lines if record.levelno >= logging.WARNING]
    assert levels.count(("stores.store_files", "ERROR")) == 1
    assert len(levels) <= 3, "the file, the run that is lost, and the worker that is fenced"
    assert (
        "then restart this process" in next(r for r in lines if r.name == "stores.store_files").getMessage()
    )


def delete_the_file(database: Path) -> None:
    database.unlink()


LOST = [delete_the_file, delete_the_database, empty]


@pytest.mark.parametrize("change", LOST)
async def test_the_next_process_gets_the_process_that_uses_the_old_file(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    database = tmp_path / "runs.db"
    async with team_of(1, tmp_path, lease_ttl=30.0, renew=9.0):
        change(database)
        was_there = database.exists()
        with Child(NEXT, database) as other:
            assert other.receive() == "StoreUnavailable"
            message = other.receive()
            assert f"was {'emptied' if was_there else 'removed'}, and process {os.getpid()} still" in message
        assert database.exists() == was_there, "it made an empty database"


@pytest.mark.parametrize("change", LOST)
async def test_a_fenced_worker_lets_go_of_the_locks_of_a_file_that_was_replaced(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    database = tmp_path / "runs.db"
    async with team_of(1, tmp_path, renew=0.1) as (manager,):
        moved = tmp_path / "still-linked.db"
        os.link(database, moved)
        change(database)

        async def free() -> bool:
            with Child(LOCKS, moved, f"{database}-gate") as other:
                return other.receive() == "free"

        await wait_until(free, description="its locks are gone", timeout=20)
        with pytest.raises(StoreReplaced):
            await manager.create_or_reject("another")
        with pytest.raises(StoreReplaced):
            await manager.worker.fleet()


async def test_an_end_that_a_replaced_file_refuses_is_not_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with team_of(1, tmp_path, lease_ttl=30.0, renew=9.0) as (manager,):
        run, agent = await running(manager, "t")
        delete_the_file(tmp_path / "runs.db")
        entry = assembly_of(manager).shared.registry.entry(run.run_id)
        assert entry is not None
        agent.may_end.set()
        await asyncio.wait_for(entry.settled.wait(), 20)
        assert assembly_of(manager).runs.settlement.refusals.oldest is None
    assert not [record for record in caplog.records if record.exc_info]


LOCKS = """
import fcntl
try:
    for path, start, length in ((args[0], 0x40000000, 512), (args[1], 0, 1 << 40)):
        with open(path, "r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
    send("free")
except BlockingIOError as error:
    send("held")
"""


async def test_a_write_ahead_log_whose_database_is_gone_is_not_removed(tmp_path: Path) -> None:
    database, log = tmp_path / "runs.db", tmp_path / "runs.db-wal"
    log.write_bytes(b"committed")
    for create in (True, False):
        with pytest.raises(StoreRefused, match=r"its write-ahead log .* was left"):
            await SQLiteStore(database, create=create).open()
    assert log.read_bytes() == b"committed"
    assert not database.exists()


NEXT = """
import asyncio
from stores.rows import NewWorker
from stores.sqlite import SQLiteStore
async def main():
    store = SQLiteStore(args[0])
    try:
        await store.open()
        await store.register(NewWorker("w", "here", "boot", 1, "0", 15000))
    except Exception as error:
        send(type(error).__name__)
        send(error)
    await store.aclose()
asyncio.run(main())
"""


def fill_with_noise(database: Path) -> None:
    size = database.stat().st_size
    with database.open("r+b") as file:
        file.write(os.urandom(size))


def cut_off(database: Path) -> None:
    os.truncate(database, 4096)


def put_another_program_s_in_its_place(database: Path) -> None:
    other = database.with_name("other.db")
    with closing(sqlite3.connect(other)) as cx:
        cx.execute("CREATE TABLE notes (text)")
    database.write_bytes(other.read_bytes())


async def test_gate_that_cannot_be_opened_is_an_error_of_the_store(tmp_path: Path) -> None:
    (tmp_path / "runs.db-gate").mkdir()
    store = SQLiteStore(tmp_path / "runs.db")
    with pytest.raises(StoreUnavailable, match=r"runs\.db-gate"):
        await store.open()
    await store.aclose()


@pytest.mark.parametrize("change", [fill_with_noise, cut_off, put_another_program_s_in_its_place])
async def test_a_worker_whose_file_was_written_over_is_not_ready(
    manager: RunManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    monkeypatch.setattr("stores.sqlite.LOOK_EVERY", 0.0)
    run = await manager.create_or_reject("t")
    manager.launch(run, quick)
    await manager.wait(run.run_id, timeout=20)
    assert (await manager.worker.health()).ready
    stored(tmp_path / "runs.db", "PRAGMA wal_checkpoint(TRUNCATE)")  # nothing of it is in the log
    change(tmp_path / "runs.db")

    async def red() -> bool:
        return not (await manager.worker.health()).ready

    await wait_until(red, description="it is not ready")
    health = await manager.worker.health()
    assert health.store_error is not None
    assert re.search("damaged|SQLite database|was removed or replaced", health.store_error)
    with pytest.raises((StoreRefused, StoreUnavailable)):
        await manager.worker.fleet()


async def test_restarting_a_store_within_a_process_is_no_replacement(tmp_path: Path) -> None:
    """Each leaves alone: the log is removed at its end, and made anew."""
    for number in range(3):
        async with team_of(1, tmp_path) as (one,):
            run, agent = await running(one, "t", Agent(returns=number))
            agent.may_end.set()
            assert await one.wait(run.run_id, timeout=20) == number
            assert (await one.worker.health()).ready
