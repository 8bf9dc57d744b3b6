"""The SQLite store where other processes hold the file, stop in mid-transaction, or die.

The promise in all cases: nothing is acknowledged that is not written, the caller gets
StoreUnavailable within the busy time-out, and the store works again by itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from stores.errors import StoreInUse, StoreRefused, StoreUnavailable
from tests.support.agents import quick
from tests.support.agents import running as launched_run
from tests.support.builders import (
    SUCCESS,
    admitted,
    cancel,
    fence_epoch,
    holding,
    new_worker,
    row_of,
    running,
    stored,
    worker_row,
)
from tests.support.children import SQLITE_WRITER, Child
from tests.support.inside_stores import gate_pid, open_gates
from tests.support.teams import team_of
from tests.support.waiting import wait_until

STRANGER = """
import sqlite3
cx = sqlite3.connect(args[0], isolation_level=None)
cx.execute("BEGIN IMMEDIATE")
send("locked")
receive()
cx.execute("COMMIT")
send("free")
receive()
"""


@contextmanager
def locked_by_stranger(path: Path) -> Generator[Child]:
    """Another program has locked the file. Leaving the block kills it."""
    with Child(STRANGER, path) as stranger:
        assert stranger.receive() == "locked"
        yield stranger


async def test_a_lock_held_by_a_stranger_is_waited_out(
    open_sqlite: Callable[..., Any], sqlite_path: Path
) -> None:
    """No caller gets "database is locked" below the busy time-out, and no transition is lost."""
    store = await open_sqlite(busy_timeout=20)
    me = await store.register(new_worker())
    owns = [await running(store, me, f"t{n}") for n in range(5)]
    with locked_by_stranger(sqlite_path) as stranger:
        calls = [asyncio.ensure_future(store.finish(own, SUCCESS)) for own in owns[:3]]
        calls += [asyncio.ensure_future(cancel(store, own.run_id)) for own in owns[3:]]
        await asyncio.wait(calls, timeout=3)
        assert not any(call.done() for call in calls)
        assert (await row_of(store, owns[0].run_id)).open, "reads go on meanwhile"
        stranger.send()
        answers = await asyncio.gather(*calls)
    assert [answer.status for answer in answers] == ["success"] * 3 + ["interrupted"] * 2
    for own in owns:
        assert [line.what for line in await store.transitions(own.run_id)][2] in {"finished", "decided"}


async def test_past_the_busy_time_out_nothing_is_run_and_the_store_recovers(
    open_sqlite: Callable[..., Any], sqlite_path: Path
) -> None:
    store = await open_sqlite(busy_timeout=0.3)
    me = await store.register(new_worker())
    with locked_by_stranger(sqlite_path) as stranger:
        calls = [admitted(store, me, f"t{n}") for n in range(3)]
        answers = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 10)
        assert all(isinstance(answer, StoreUnavailable) for answer in answers)
        stranger.send()
        assert stranger.receive() == "free"
    assert (await admitted(store, me, "after")).holds
    assert stored(sqlite_path, "SELECT thread_id FROM runs") == ["after"]


async def test_a_writer_paused_in_mid_transaction_is_named_and_its_death_frees_the_file(
    open_sqlite: Callable[..., Any], sqlite_path: Path
) -> None:
    store = await open_sqlite(busy_timeout=0.3)
    me = await store.register(new_worker())
    with Child(SQLITE_WRITER, sqlite_path) as other:
        epoch = int(other.receive())
        other.pause()
        with pytest.raises(StoreUnavailable, match=f"process {other.pid}"):
            await admitted(store, me)
        peer = await worker_row(store, epoch)
        assert not store.proven_dead(peer), "paused is not dead"
        other.kill()
        assert store.proven_dead(peer)
    assert (await admitted(store, me)).holds


async def test_a_store_closes_within_a_bound_behind_a_paused_writer(
    open_sqlite: Callable[..., Any], sqlite_path: Path
) -> None:
    store = await open_sqlite(busy_timeout=0.3)
    me = await store.register(new_worker())
    with Child(SQLITE_WRITER, sqlite_path) as other:
        assert other.receive()
        other.pause()
        admitting = asyncio.ensure_future(admitted(store, me))
        await asyncio.sleep(0)
        await asyncio.wait_for(store.aclose(), 10)
        with pytest.raises(StoreUnavailable):
            await admitting
        await store.aclose()
        with pytest.raises(StoreUnavailable, match="not open"):
            await admitted(store, me)
        other.kill()
    await wait_until(lambda: not open_gates(), description="the thread has closed for itself")
    assert stored(sqlite_path) == []


async def test_closing_answers_all_queued_callers(open_sqlite: Callable[..., Any], sqlite_path: Path) -> None:
    store = await open_sqlite()
    me = await store.register(new_worker())
    calls = [asyncio.ensure_future(admitted(store, me, f"t{n}")) for n in range(300)]
    await asyncio.sleep(0)
    await store.aclose()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    done = [answer.run_id for answer in answers if not isinstance(answer, BaseException)]
    assert all(isinstance(a, StoreUnavailable) for a in answers if isinstance(a, BaseException))
    assert sorted(stored(sqlite_path)) == sorted(done)
    assert len(done) == 300


async def test_two_stores_of_one_process_share_the_file(
    open_sqlite: Callable[..., Any], sqlite_path: Path
) -> None:
    """A heartbeat has a connection of its own; closing it must not drop the worker's proof of life."""
    one, two = await open_sqlite(), await open_sqlite()
    mine, other = await one.register(new_worker()), await two.register(new_worker())
    calls = [
        admitted(store, epoch, f"{epoch}-{n}")
        for n in range(50)
        for store, epoch in ((one, mine), (two, other))
    ]
    assert all(admission.holds for admission in await asyncio.gather(*calls))
    await two.aclose()
    assert await one.beat(mine)
    with Child(VOUCHED, sqlite_path) as child:
        assert child.receive() == "True True"
    peer = await worker_row(one, other)
    assert not one.proven_dead(peer)


VOUCHED = """
from pathlib import Path
from stores.gate import gate_of
gate = gate_of(Path(args[0]))
send(gate.is_live(1), gate.is_live(2))
receive()
"""


async def test_a_second_host_on_the_same_file_is_refused(open_sqlite: Callable[..., Any]) -> None:
    one, two = await open_sqlite(), await open_sqlite()
    await one.register(new_worker())
    with pytest.raises(StoreRefused, match="serves one host"):
        await two.register(new_worker(host="there", boot_id="boot-2"))


async def test_a_lease_that_a_clock_set_back_makes_endless_is_bounded(
    open_sqlite: Callable[..., Any],
) -> None:
    """By the registration that it keeps out: within the worker's time to live, not within hours. A reaper
    goes by its own clock as well."""
    hours, ttl = 5 * 3600 * 1_000_000, 15_000_000
    now = [1_000_000_000_000_000]
    store = await open_sqlite(clock=lambda: now[0])
    dead = await store.register(new_worker(ttl_ms=15_000))
    now[0] -= hours
    with pytest.raises(StoreInUse) as refused:
        await store.register(new_worker(host="there", boot_id="boot-2"))
    assert refused.value.lease_left <= 15
    now[0] += ttl + 1
    assert (await worker_row(store, dead)).expired
    assert await store.register(new_worker(host="there", boot_id="boot-2", ttl_ms=15_000)) > dead


async def test_a_worker_waits_for_the_lease_that_its_host_left_under_another_name(
    open_sqlite: Callable[..., Any], tmp_path: Path
) -> None:
    """A container after a quick reboot: another host name, another boot id, the same file."""
    store = await open_sqlite()
    before = await store.register(new_worker(host="before", boot_id="boot-1", ttl_ms=1500))
    began = time.monotonic()
    async with team_of(1, tmp_path) as (manager,):
        run = await manager.create_or_reject("t")
        manager.launch(run, quick)
        await manager.wait(run.run_id, timeout=20)
        assert manager.worker.epoch > before
    assert time.monotonic() - began > 1


async def test_a_worker_of_a_second_host_is_refused_when_the_first_renews(
    open_sqlite: Callable[..., Any], tmp_path: Path
) -> None:
    store = await open_sqlite()
    elsewhere = await store.register(new_worker(host="elsewhere", boot_id="boot-1", ttl_ms=60_000))
    beating = asyncio.create_task(beat_again(store, elsewhere))
    try:
        with pytest.raises(StoreInUse, match="SQLite serves one host"):
            async with team_of(1, tmp_path):
                pytest.fail("it has started")
    finally:
        beating.cancel()


async def beat_again(store: Any, epoch: int) -> None:
    while True:
        await store.beat(epoch)
        await asyncio.sleep(0.05)


async def test_the_death_of_a_process_is_proven_and_its_runs_end(
    open_sqlite: Callable[..., Any], sqlite_path: Path
) -> None:
    store = await open_sqlite()
    me = await store.register(new_worker())
    with Child(SQLITE_WRITER, sqlite_path) as other:
        epoch = int(other.receive())
        other.send()
        assert other.receive() == "done"
        await holding(store, epoch)
        peer = await worker_row(store, epoch)
        assert not store.proven_dead(peer)
        other.kill()
    assert store.proven_dead(peer)
    await fence_epoch(store, epoch, by=me)
    assert len(await store.sweep(by=me, error="killed")) == 1


def lock_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "locked" in record.getMessage()]


async def test_lock_of_another_program_is_logged_once_with_its_process_and_the_waiting_runs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Within 3 s: long before the busy timeout, and before the lease ends."""
    path = tmp_path / "runs.db"
    caplog.set_level("INFO")
    async with team_of(1, tmp_path, lease_ttl=20.0) as (manager,):
        run, agent = await launched_run(manager, "t")
        with locked_by_stranger(path) as stranger:
            agent.may_end.set()
            await wait_until(lambda: lock_lines(caplog), description="it is logged", timeout=8)
            (line,) = lock_lines(caplog)
            assert f"process {stranger.pid} (" in line
            assert f"fuser {path}" in line
            assert repr(run.run_id) in line
            assert (await manager.worker.health()).blocked_by == stranger.pid
        await wait_until(lambda: len(lock_lines(caplog)) > 1, description="its end is logged")
        assert "no longer locked" in lock_lines(caplog)[-1]
        assert len(lock_lines(caplog)) == 2


async def test_error_names_the_program_that_locked_the_file_and_not_the_worker_at_the_gate(
    open_sqlite: Callable[..., Any], sqlite_path: Path
) -> None:
    store = await open_sqlite(busy_timeout=1)
    with locked_by_stranger(sqlite_path) as stranger, Child(SQLITE_WRITER, sqlite_path) as worker:
        await wait_until(lambda: gate_pid(store) == worker.pid, description="a worker is at the gate")
        with pytest.raises(StoreUnavailable) as refused:
            await store.register(new_worker())
        assert f"by process {stranger.pid} (" in str(refused.value)
        assert str(worker.pid) not in str(refused.value)


async def test_end_of_a_lease_under_a_lock_names_the_process(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with team_of(1, tmp_path, lease_ttl=4.0, lease_margin=0.5, renew=0.2) as (manager,):
        epoch = manager.worker.epoch
        with locked_by_stranger(tmp_path / "runs.db") as stranger:
            await wait_until(lambda: "is fenced" in caplog.text, description="the lease ends", timeout=10)
            fenced = next(line for line in caplog.messages if "is fenced" in line)
            assert f"process {stranger.pid} (" in fenced
        await wait_until(lambda: manager.worker.epoch > epoch, description="a new epoch")


async def test_lock_lasts_from_the_first_writer_that_gave_up(
    open_sqlite: Callable[..., Any], sqlite_path: Path
) -> None:
    """Each writer waits for less time than the lock is reported after."""
    store = await open_sqlite(busy_timeout=0.2)
    with locked_by_stranger(sqlite_path):
        with pytest.raises(StoreUnavailable):
            await store.register(new_worker())
        first_gave_up = time.monotonic()
        await wait_until(lambda: store.lock_watch.trouble, description="the lock is reported", timeout=8)
        assert store.lock_watch.blocked_since < first_gave_up
    await store.register(new_worker())
    assert store.lock_watch.blocked_since is None


UNCLOSED = """
import asyncio
from stores.sqlite import SQLiteStore
store = SQLiteStore(args[0])
asyncio.run(store.open())
"""


def test_process_that_does_not_close_its_store_ends(sqlite_path: Path) -> None:
    with Child(UNCLOSED, sqlite_path) as child:
        assert child.exit_status() == 0
