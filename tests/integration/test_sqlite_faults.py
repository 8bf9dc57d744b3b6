"""The SQLite store where the file, the disk or another process is in the way.

The promise in all cases: nothing is acknowledged that is not written, nothing is half-written, the
caller gets StoreUnavailable within the busy time-out, and the store works again by itself.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from stores.crons import CronQuery
from stores.errors import StoreFull, StoreUnavailable
from stores.rows import Limits
from stores.sqlite import SQLiteStore
from tests.support.builders import (
    admitted,
    locked,
    new_run,
    new_worker,
    row_of,
    stored,
    worker_row,
)
from tests.support.children import SQLITE_WRITER, Child
from tests.support.inside_stores import break_reads_of_one_row, reader_of, writer_of

UNPRIVILEGED_ID = 65534
UNPRIVILEGED = f"""
import asyncio, os
from stores.errors import StoreFull, StoreUnavailable
from stores.rows import NewWorker
from stores.sql.sqlite.schema import migrations
from stores.sqlite import SQLiteStore
async def main():
    store = SQLiteStore(args[0], busy_timeout=2)
    migrations()  # read while the program's own files can be
    if os.getuid() == 0:  # file modes do not bind root
        os.setgroups([])
        os.setgid({UNPRIVILEGED_ID})
        os.setuid({UNPRIVILEGED_ID})
    try:
        await store.open()
        await store.register(NewWorker("w", "here", "boot", 1, "0", 15000))
    except StoreUnavailable as error:
        send("unavailable:", error)
    else:
        send("written")
    finally:
        await store.aclose()
asyncio.run(main())
"""
INSPECTS = UNPRIVILEGED.replace(
    "await store.open()", "send((await store.inspect()).obstacle); return"
).replace("migrations()", "await asyncio.to_thread(migrations)")


async def set_pragma(store: SQLiteStore, pragma: str) -> None:
    """Execute the pragma on the connection that writes."""

    def execute(cx: sqlite3.Connection) -> None:
        cx.execute(pragma).fetchall()

    await writer_of(store).submit(execute)


# -- read-only


@pytest.fixture
def shared(tmp_path: Path) -> Generator[Path]:
    """A folder that an unprivileged child can reach."""
    import tempfile

    with tempfile.TemporaryDirectory(
        prefix="rc-", dir="/tmp" if os.access("/tmp", os.W_OK) else None
    ) as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
        folder.chmod(0o755)


def spare(database: Path, what: str) -> None:
    """Let all users write everything but that."""
    gate = database.with_name("runs.db-gate")
    for file in (database, gate):
        file.chmod(0o666)
    database.parent.chmod(0o777)
    if what == "folder":
        database.parent.chmod(0o555)
    elif what != "nothing":
        {"file": database, "gate": gate}[what].chmod(0o444)


@pytest.mark.parametrize("what", ["nothing", "file", "folder", "gate"])
async def test_what_may_not_be_written_is_unavailable(shared: Path, what: str) -> None:
    """`nothing` is the control: the same child writes where it may."""
    database = shared / "runs.db"
    store = SQLiteStore(database)
    await store.open()
    await store.aclose()
    spare(database, what)
    with Child(UNPRIVILEGED, database) as child:
        outcome = child.receive()
    assert outcome.split(":")[0] == ("written" if what == "nothing" else "unavailable")
    assert stored(database, "SELECT count(*) FROM workers") == [1 if what == "nothing" else 0]
    if what != "nothing":
        path = {"file": database, "folder": shared, "gate": f"{database}-gate"}[what]
        assert f"'{path}' is not writable" in outcome
        assert "try again" not in outcome


@pytest.mark.parametrize("what", ["nothing", "file", "gate"])
async def test_inspection_names_what_may_not_be_written(shared: Path, what: str) -> None:
    database = shared / "runs.db"
    store = SQLiteStore(database)
    await store.open()
    await store.aclose()
    spare(database, what)
    with Child(INSPECTS, database) as child:
        obstacle = child.receive()
    if what == "nothing":
        assert obstacle == "None"
    else:
        assert f"{database}{'-gate' if what == 'gate' else ''}' is not writable for uid" in obstacle


@pytest.fixture
def writable_by_all(shared: Path) -> Path:
    database = shared / "runs.db"
    database.touch()
    database.chmod(0o666)
    shared.chmod(0o777)
    return database


async def test_two_users_of_the_system_share_a_file_that_both_may_write(writable_by_all: Path) -> None:
    store = SQLiteStore(writable_by_all)
    await store.open()
    await store.register(new_worker(host="here", boot_id="boot"))
    with Child(UNPRIVILEGED, writable_by_all) as child:
        assert child.receive() == "written"
    await store.aclose()


async def test_a_file_that_becomes_read_only_is_unavailable_and_heals(
    open_sqlite: Callable[..., Any], sqlite_path: Path
) -> None:
    store = await open_sqlite()
    me = await store.register(new_worker())
    await set_pragma(store, "PRAGMA query_only = ON")
    with pytest.raises(StoreUnavailable, match="read-only"):
        await admitted(store, me)
    assert stored(sqlite_path) == []
    await set_pragma(store, "PRAGMA query_only = OFF")
    assert (await admitted(store, me)).holds


# -- full disk


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Generator[Path]:
    """A real file system of 1 MiB, unless the test requests another size."""
    folder = tmp_path / "small"
    folder.mkdir()
    size = getattr(request, "param", "1m")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("a small tmpfs cannot be mounted here: the page limit stands in for it in the next test")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


async def fill_up(store: SQLiteStore, epoch: int) -> list[str]:
    """Admit until the store refuses; returns the ids of the acknowledged runs."""
    acknowledged: list[str] = []
    for number in range(200):
        runs = [new_run(f"t{number}-{n}", metadata={"x": "x" * 8_000}) for n in range(5)]
        calls = [store.admit(run, epoch=epoch, limits=Limits()) for run in runs]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        acknowledged += [
            run.run_id for run, a in zip(runs, answers, strict=True) if not isinstance(a, Exception)
        ]
        errors = [answer for answer in answers if isinstance(answer, BaseException)]
        if errors:
            assert all(isinstance(error, StoreUnavailable) for error in errors)
            assert "full" in str(errors[0]) or "I/O" in str(errors[0])
            return acknowledged
    pytest.fail("the disk was never full")


def assert_whole(path: Path, acknowledged: list[str]) -> None:
    assert sorted(stored(path)) == sorted(acknowledged)
    assert sorted(stored(path, "SELECT run_id FROM transitions")) == sorted(acknowledged)
    threads = stored(path, "SELECT thread_id FROM threads")
    assert sorted(threads) == sorted(stored(path, "SELECT thread_id FROM runs"))
    assert stored(path, "PRAGMA integrity_check") == ["ok"]


async def test_a_full_disk_acknowledges_nothing_that_is_not_written(
    small_disk: Path, open_sqlite: Callable[..., Any]
) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 200_000)
    store = await open_sqlite(small_disk / "runs.db")
    me = await store.register(new_worker())
    acknowledged = await fill_up(store, me)
    assert acknowledged
    assert [await store.row(run_id) is not None for run_id in acknowledged] == [True] * len(acknowledged)
    ballast.unlink()
    acknowledged.append((await admitted(store, me, "after")).run_id)
    assert_whole(small_disk / "runs.db", acknowledged)
    await store.aclose()


async def test_a_file_at_its_limit_acknowledges_nothing_that_is_not_written(
    open_sqlite: Callable[..., Any], sqlite_path: Path
) -> None:
    store = await open_sqlite()
    me = await store.register(new_worker())
    await set_pragma(store, "PRAGMA max_page_count = 100")
    acknowledged = await fill_up(store, me)
    assert_whole(sqlite_path, acknowledged)
    own = [await row_of(store, run_id) for run_id in acknowledged]
    assert all(row.open for row in own)
    await set_pragma(store, "PRAGMA max_page_count = 100000")
    acknowledged.append((await admitted(store, me, "after")).run_id)
    assert_whole(sqlite_path, acknowledged)


async def test_the_writes_that_share_a_batch_with_one_without_room_are_written(
    small_disk: Path, open_sqlite: Callable[..., Any]
) -> None:
    await assert_only_the_big_one_is_refused(await open_sqlite(small_disk / "runs.db"))


@pytest.mark.parametrize("small_disk", ["8m"], indirect=True)
async def test_a_write_without_room_leaves_the_room_to_others(
    small_disk: Path, open_sqlite: Callable[..., Any]
) -> None:
    """It is refused before it has filled the disk with its part of the log. The log of the others outgrows
    4 MB meanwhile, and is emptied into the database."""
    store = await open_sqlite(small_disk / "runs.db", synchronous="NORMAL")
    me = await store.register(new_worker())
    big = new_run("big", metadata={"x": "x" * 10_000_000})
    for number in range(150):
        if number % 50 == 0:
            with pytest.raises(StoreFull):
                await store.admit(big, epoch=me, limits=Limits())
        await asyncio.gather(*(admitted(store, me, f"t{number}-{n}") for n in range(10)))
    assert len(stored(store.path)) == 1500
    await store.aclose()


async def test_the_writes_that_share_a_batch_with_one_past_the_file_limit_are_written(
    open_sqlite: Callable[..., Any],
) -> None:
    store = await open_sqlite()
    await set_pragma(store, "PRAGMA max_page_count = 200")
    await assert_only_the_big_one_is_refused(store)


async def assert_only_the_big_one_is_refused(store: SQLiteStore) -> None:
    me = await store.register(new_worker())
    runs = [new_run(f"t{n}", metadata={"x": "x" * (5_000_000 if n == 3 else 10)}) for n in range(8)]
    calls = [store.admit(run, epoch=me, limits=Limits()) for run in runs]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [isinstance(answer, StoreFull) for answer in answers] == [at == 3 for at in range(len(runs))]
    assert_whole(store.path, [run.run_id for at, run in enumerate(runs) if at != 3])
    await store.aclose()


# -- commits that fail


class FailsOnce(sqlite3.Connection):
    """A connection whose next commit meets a full disk, if `fail` is set."""

    fail = False

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        if sql == "COMMIT" and self.fail:
            self.fail = False
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        return super().execute(sql, *args)


async def failing(store: SQLiteStore) -> None:
    """Make the next commit of the store fail."""

    def arm(cx: sqlite3.Connection) -> None:
        assert isinstance(cx, FailsOnce)
        cx.fail = True

    await writer_of(store).submit(arm)


@pytest.fixture
def fragile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stores.sqlite.sqlite3.connect", partial(sqlite3.connect, factory=FailsOnce))


async def test_a_commit_that_fails_is_not_acknowledged_and_may_be_repeated(
    fragile: None, open_sqlite: Callable[..., Any], sqlite_path: Path
) -> None:
    store = await open_sqlite()
    me = await store.register(new_worker())
    run = new_run()
    await failing(store)
    with pytest.raises(StoreUnavailable, match="full"):
        await store.admit(run, epoch=me, limits=Limits())
    assert stored(sqlite_path) == []
    assert (await store.admit(run, epoch=me, limits=Limits())).existing is None


async def test_a_registration_that_fails_leaves_its_number_to_others(
    fragile: None, open_sqlite: Callable[..., Any], sqlite_path: Path
) -> None:
    """The number is issued again: the worker that gets it must be able to prove that it lives."""
    store = await open_sqlite()
    await failing(store)
    with pytest.raises(StoreUnavailable):
        await store.register(new_worker())
    with Child(SQLITE_WRITER, sqlite_path) as other:
        assert other.receive() == "1"
        other.send()
        assert other.receive() == "done"
        peer = await worker_row(store, 1)
        assert not store.proven_dead(peer)
        other.kill()
        assert store.proven_dead(peer)


async def test_a_registration_whose_caller_goes_away_still_counts(open_sqlite: Callable[..., Any]) -> None:
    store = await open_sqlite()
    asking = asyncio.ensure_future(store.register(new_worker()))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert await store.register(new_worker()) == 2
    assert not store.proven_dead(await worker_row(store, 1))


# -- a look at one row


async def test_read_of_one_row_waits_for_no_other_read(open_sqlite: Callable[..., Any]) -> None:
    """A cancel waits behind no long read. A file that is locked for a moment delays no read of one row: the
    reader, which waits, takes that read over."""
    store = await open_sqlite()
    me = await store.register(new_worker())
    run_id = (await admitted(store, me)).run_id
    may_end = threading.Event()

    def long(_: sqlite3.Connection) -> bool:
        return may_end.wait(20)

    long_read = reader_of(store).submit(long)
    standing = await store.standing(run_id)
    assert standing is not None
    assert standing.run_id == run_id
    assert not long_read.done()
    may_end.set()
    await long_read

    break_reads_of_one_row(store, sqlite3.connect(":memory:"))  # as a file that cannot be read at this moment
    assert await store.standing(run_id) == standing

    await store.aclose()
    with pytest.raises(StoreUnavailable):
        await store.standing(run_id)


async def test_store_is_closed_after_the_writes_that_wait_for_a_lock(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "runs.db", busy_timeout=20)
    await store.open()
    epoch = await store.register(new_worker())
    with locked(tmp_path / "runs.db"):
        writes = [asyncio.create_task(admitted(store, epoch, f"t{number}")) for number in range(3)]
        done, _ = await asyncio.wait(writes, timeout=0.1)
        assert not done
        closing = asyncio.create_task(store.aclose())
        done, _ = await asyncio.wait((closing, *writes), timeout=0.2)
        assert not done
    ids = {admission.run_id for admission in await asyncio.gather(*writes)}
    await closing
    assert ids == set(stored(tmp_path / "runs.db"))


async def test_heart_beats_where_there_is_no_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows."""

    def no_gate(database: Path) -> None:
        """Returns None."""

    monkeypatch.setattr("stores.gate.gate_of", no_gate)
    store = SQLiteStore(tmp_path / "runs.db")
    await store.open()
    try:
        epoch = await store.register(new_worker())
        heart = store.heart()
        assert heart.beat(epoch)
        heart.close()
    finally:
        await store.aclose()


async def test_schema_that_was_changed_by_hand_is_named_with_the_remedy(
    tmp_path: Path, open_sqlite: Callable[..., Any]
) -> None:
    store = await open_sqlite(tmp_path / "runs.db")
    me = await store.register(new_worker())
    stored(tmp_path / "runs.db", "ALTER TABLE runs RENAME COLUMN model_name TO model")
    stored(tmp_path / "runs.db", "ALTER TABLE crons RENAME TO jobs")
    for call, what in (
        (store.admit(new_run("t"), epoch=me, limits=Limits()), "no column named model_name"),
        (store.runs(limit=1), "no such column: model_name"),
        (store.crons(CronQuery(), user_id=None), "no such table: crons"),
    ):
        with pytest.raises(StoreUnavailable, match=what) as unavailable:
            await call
        assert "was changed by hand: `coordinator db check` lists what is missing" in str(unavailable.value)
        assert "try again" not in str(unavailable.value)
