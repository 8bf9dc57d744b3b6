"""Group commit: which transactions share a commit, which callers are answered, what is not executed."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from stores.errors import StoreUnavailable, WrongEventLoop
from stores.group_commit import MAX_BATCH, GroupCommit
from stores.sqlite_thread import ThreadConnection
from tests.support.inside_stores import urgent_transactions_of
from tests.support.waiting import wait_until

BUSY = 0.2
SCHEMA = """
    CREATE TABLE kept (
        n INTEGER PRIMARY KEY, parent INTEGER REFERENCES kept (n) DEFERRABLE INITIALLY DEFERRED
    ) STRICT;
"""


class Turnstile:
    """A gate that the test closes and opens: what waits at it has not begun."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.opened.set()
        self.waiting = threading.Event()

    @contextmanager
    def __call__(self) -> Generator[None]:
        self.waiting.set()
        assert self.opened.wait(20)
        yield

    def close(self) -> None:
        self.waiting.clear()
        self.opened.clear()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "t.db"
    with sqlite3.connect(path, isolation_level=None) as cx:
        cx.execute("PRAGMA journal_mode = WAL")
        cx.executescript(SCHEMA)
    cx.close()
    return path


def connector(path: Path) -> Callable[[], sqlite3.Connection]:
    def connect() -> sqlite3.Connection:
        cx = sqlite3.connect(path, isolation_level=None, timeout=BUSY, check_same_thread=False)
        cx.execute("PRAGMA foreign_keys = ON")
        return cx

    return connect


@pytest.fixture
async def connection(path: Path) -> AsyncGenerator[ThreadConnection]:
    connection = ThreadConnection(connector(path))
    await connection.connect()
    yield connection
    await connection.close()


@pytest.fixture
def turnstile() -> Generator[Turnstile]:
    turnstile = Turnstile()
    yield turnstile
    turnstile.opened.set()


@pytest.fixture
async def commits(connection: ThreadConnection, turnstile: Turnstile) -> GroupCommit:
    return GroupCommit(
        connection, clock=lambda: 1, busy_timeout=BUSY, gate=turnstile, blocked_by=lambda: " by process 42"
    )


def keep(cx: sqlite3.Connection, now: int, n: int, parent: int | None = None) -> int:
    cx.execute("INSERT INTO kept VALUES (?, ?)", (n, parent))
    return n


def noting() -> tuple[list[int], Callable[..., int]]:
    """What was run, in order; and `keep`, which notes it."""
    ran: list[int] = []

    def noted(cx: sqlite3.Connection, now: int, n: int) -> int:
        ran.append(n)
        return keep(cx, now, n)

    return ran, noted


def kept(path: Path) -> set[int]:
    cx = sqlite3.connect(path)
    try:
        return {n for (n,) in cx.execute("SELECT n FROM kept")}
    finally:
        cx.close()


async def test_transactions_of_one_turn_share_one_commit(commits: GroupCommit, path: Path) -> None:
    answers = await asyncio.gather(*(commits.run(keep, n) for n in range(50)))
    assert answers == list(range(50))
    assert (commits.transactions, commits.commits) == (50, 1)
    assert kept(path) == set(range(50))


async def test_transactions_queued_during_a_batch_share_the_next(
    commits: GroupCommit, turnstile: Turnstile
) -> None:
    turnstile.close()
    first = commits.run(keep, 0)
    await wait_until(turnstile.waiting.is_set, description="the first batch is at the gate")
    others = [commits.run(keep, n) for n in range(1, 10)]
    turnstile.opened.set()
    await asyncio.gather(first, *others)
    assert commits.commits == 2


async def test_a_batch_is_bounded(commits: GroupCommit) -> None:
    await asyncio.gather(*(commits.run(keep, n) for n in range(2 * MAX_BATCH + 1)))
    assert commits.commits == 3


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        KeyError("x"),
        OverflowError("x"),
        RecursionError("x"),
        OSError("x"),
        AssertionError("x"),
    ],
    ids=repr,
)
async def test_a_transaction_that_fails_rolls_back_only_itself(
    commits: GroupCommit, path: Path, error: Exception
) -> None:
    def fail(cx: sqlite3.Connection, now: int) -> None:
        keep(cx, now, 1)
        raise error

    good, bad, good_too = await asyncio.gather(
        commits.run(keep, 0), commits.run(fail), commits.run(keep, 2), return_exceptions=True
    )
    assert (good, good_too, commits.commits) == (0, 2, 1)
    assert isinstance(bad, StoreUnavailable if isinstance(error, OSError) else type(error))
    assert kept(path) == {0, 2}


async def test_transaction_that_fails_after_writing_is_rolled_back_alone(
    commits: GroupCommit, path: Path
) -> None:
    ran, noted = noting()

    def half(cx: sqlite3.Connection, now: int) -> None:
        noted(cx, now, 2)
        raise ValueError("after the write")

    calls = (commits.run(noted, 1), commits.run(half), commits.run(noted, 3))
    first, failed, last = await asyncio.gather(*calls, return_exceptions=True)
    assert (first, last) == (1, 3)
    assert isinstance(failed, ValueError)
    assert ran == [1, 2, 1, 2, 3]
    assert kept(path) == {1, 3}


async def test_refusal_without_writes_does_not_repeat_the_batch(commits: GroupCommit, path: Path) -> None:
    ran, noted = noting()

    def refuse(cx: sqlite3.Connection, now: int) -> None:
        cx.execute("SELECT n FROM kept").fetchall()
        raise ValueError("busy")

    calls = (commits.run(noted, 1), commits.run(refuse), commits.run(noted, 3))
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(answer) for answer in answers] == [int, ValueError, int]
    assert ran == [1, 3]
    assert kept(path) == {1, 3}


async def test_integrity_error_concerns_its_caller_only(commits: GroupCommit, path: Path) -> None:
    first, second = await asyncio.gather(commits.run(keep, 1), commits.run(keep, 1), return_exceptions=True)
    assert first == 1
    assert isinstance(second, sqlite3.IntegrityError)


async def test_programming_error_is_not_store_unavailable(commits: GroupCommit) -> None:
    def mistaken(cx: sqlite3.Connection, now: int) -> None:
        cx.execute("INSERT INTO kept VALUES (?, ?)", (1, object()))

    with pytest.raises(sqlite3.ProgrammingError):
        await commits.run(mistaken)


async def test_a_cancelled_caller_does_not_stop_its_transaction(
    commits: GroupCommit, turnstile: Turnstile, path: Path
) -> None:
    turnstile.close()
    under_way = asyncio.ensure_future(commits.run(keep, 1))
    await wait_until(turnstile.waiting.is_set, description="the batch is at the gate")
    queued = commits.run(keep, 2)
    for caller in (under_way, queued):
        caller.cancel()
    turnstile.opened.set()
    await commits.run(keep, 3)
    assert kept(path) == {1, 2, 3}


async def test_expired_transaction_is_not_executed_and_its_error_names_the_holder(
    commits: GroupCommit, turnstile: Turnstile, path: Path
) -> None:
    turnstile.close()
    first = commits.run(keep, 1)
    await wait_until(turnstile.waiting.is_set, description="the batch is at the gate")
    second = commits.run_urgent(keep, 2)
    for caller in (first, second):
        with pytest.raises(StoreUnavailable, match="process 42"):
            await asyncio.wait_for(caller, 5)
    assert not urgent_transactions_of(commits), "a transaction that will never run is not kept"
    turnstile.opened.set()
    await commits.run(keep, 3)
    assert kept(path) == {3}


async def test_busy_timeout_counts_from_each_callers_request(
    commits: GroupCommit, turnstile: Turnstile
) -> None:
    """Behind a blocked batch a caller is answered a busy time-out after *its own* call."""
    loop = asyncio.get_running_loop()
    turnstile.close()
    first = commits.run(keep, 1)
    with pytest.raises(StoreUnavailable):
        await first
    for n in (2, 3):
        called_at = loop.time()
        with pytest.raises(StoreUnavailable):
            await commits.run(keep, n)
        assert BUSY * 0.9 <= loop.time() - called_at < BUSY * 3


async def test_lock_of_another_program_is_awaited_within_the_busy_timeout(
    commits: GroupCommit, path: Path
) -> None:
    """Past the gate, under SQLite's own lock: the entry has not begun, so it may still expire."""
    stranger = sqlite3.connect(path, isolation_level=None)
    stranger.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="locked"):
        await asyncio.wait_for(commits.run(keep, 1), 5)
    stranger.execute("ROLLBACK")
    await commits.run(keep, 2)
    stranger.close()
    assert kept(path) == {2}


async def test_urgent_transactions_are_executed_first(commits: GroupCommit, turnstile: Turnstile) -> None:
    order: list[int] = []

    def note(cx: sqlite3.Connection, now: int, n: int) -> None:
        order.append(n)

    turnstile.close()
    first = commits.run(note, 0)
    await wait_until(turnstile.waiting.is_set, description="the batch is at the gate")
    calls = [commits.run(note, 1), commits.run(note, 2), commits.run_urgent(note, 3)]
    turnstile.opened.set()
    await asyncio.gather(first, *calls)
    assert order == [0, 3, 1, 2]


async def test_failed_commit_fails_every_transaction_of_the_batch(commits: GroupCommit, path: Path) -> None:
    """The parent that is missing is noticed at the commit, when both have done their work."""
    answers = await asyncio.gather(commits.run(keep, 1), commits.run(keep, 2, 99), return_exceptions=True)
    assert all(isinstance(answer, sqlite3.IntegrityError) for answer in answers)
    assert kept(path) == set()
    await commits.run(keep, 3)
    assert kept(path) == {3}


async def test_full_disk_fails_every_transaction_of_the_batch(
    commits: GroupCommit, connection: ThreadConnection, path: Path
) -> None:
    def fill(cx: sqlite3.Connection, now: int) -> None:
        cx.execute("CREATE TABLE big AS SELECT zeroblob(1000000)")

    await connection.submit(lambda cx: cx.execute("PRAGMA max_page_count = 20").fetchall())
    answers = await asyncio.gather(commits.run(keep, 1), commits.run(fill), return_exceptions=True)
    ok = [answer for answer in answers if not isinstance(answer, StoreUnavailable)]
    assert kept(path) == set(ok)
    assert isinstance(answers[1], StoreUnavailable)
    await commits.run(keep, 2)


async def test_a_transaction_that_could_not_be_rolled_back_does_not_block_the_next(
    commits: GroupCommit, connection: ThreadConnection, path: Path
) -> None:
    await connection.submit(lambda cx: cx.execute("BEGIN IMMEDIATE").fetchall())
    await commits.run(keep, 1)
    assert kept(path) == {1}


async def test_closing_finishes_what_is_queued_and_refuses_the_rest(
    commits: GroupCommit, turnstile: Turnstile, path: Path
) -> None:
    turnstile.close()
    queued = [commits.run(keep, n) for n in range(3)]
    closing = asyncio.ensure_future(commits.close())
    await wait_until(turnstile.waiting.is_set, description="the batch is at the gate")
    with pytest.raises(StoreUnavailable, match="closing"):
        commits.run(keep, 9)
    turnstile.opened.set()
    assert await closing is True
    assert await asyncio.gather(*queued) == [0, 1, 2]
    assert kept(path) == {0, 1, 2}


async def test_closing_is_bounded_behind_a_gate_that_never_opens(
    commits: GroupCommit, turnstile: Turnstile, path: Path
) -> None:
    turnstile.close()
    queued = commits.run(keep, 1)
    assert await asyncio.wait_for(commits.close(), 10) is False
    with pytest.raises(StoreUnavailable):
        await queued
    turnstile.opened.set()


async def test_a_closed_connection_leaves_no_caller_without_an_answer(
    commits: GroupCommit, connection: ThreadConnection
) -> None:
    await connection.close()
    answers = await asyncio.gather(*(commits.run(keep, n) for n in range(5000)), return_exceptions=True)
    assert all(isinstance(answer, StoreUnavailable) for answer in answers)
    assert len(set(map(id, answers))) == 5000, "each has an error of its own"


async def test_another_event_loop_is_refused(commits: GroupCommit) -> None:
    async def elsewhere() -> None:
        with pytest.raises(WrongEventLoop):
            commits.run(keep, 1)

    await asyncio.to_thread(asyncio.run, elsewhere())


def test_an_event_loop_that_closes_in_mid_batch_does_not_hurt_the_thread(
    path: Path, turnstile: Turnstile
) -> None:
    """The transaction is committed although its caller is gone; the thread lives on until it is closed."""

    async def commit_behind_gate() -> ThreadConnection:
        connection = ThreadConnection(connector(path))
        await connection.connect()
        commits = GroupCommit(connection, clock=lambda: 1, busy_timeout=BUSY, gate=turnstile)
        turnstile.close()
        commits.run(keep, 1)
        await wait_until(turnstile.waiting.is_set, description="the batch is at the gate")
        return connection

    connection = asyncio.run(commit_behind_gate())
    turnstile.opened.set()
    closed = threading.Event()
    connection.abandon(closed.set)
    assert closed.wait(10)
    assert kept(path) == {1}


async def test_a_connection_that_fails_or_is_cancelled_leaves_no_thread(path: Path) -> None:
    before = set(threading.enumerate())

    def broken() -> sqlite3.Connection:
        raise sqlite3.OperationalError("no")

    with pytest.raises(sqlite3.OperationalError):
        await ThreadConnection(broken).connect()
    begun, go_on = threading.Event(), threading.Event()
    made: list[sqlite3.Connection] = []

    def slow() -> sqlite3.Connection:
        begun.set()
        assert go_on.wait(10)
        made.append(connector(path)())
        return made[0]

    task = asyncio.ensure_future(ThreadConnection(slow).connect())
    await wait_until(begun.is_set, description="the thread connects")
    task.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        made[0].execute("SELECT 1")
    await wait_until(lambda: set(threading.enumerate()) <= before, description="no thread is left")


def test_every_transaction_is_resolved(path: Path) -> None:
    """Interleaved at random with cancellations: done, failed or cancelled, never pending."""

    async def scenario() -> tuple[list[Any], set[int]]:
        connection = ThreadConnection(connector(path))
        await connection.connect()
        commits = GroupCommit(connection, clock=lambda: 1, busy_timeout=20)
        calls: list[asyncio.Future[Any]] = []
        for n in range(500):
            calls.append((commits.run if n % 7 else commits.run_urgent)(keep, n))
            if n % 11 == 0:
                calls[-1].cancel()
            if n % 13 == 0:
                await asyncio.sleep(0)
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert await commits.close()
        await connection.close()
        return answers, kept(path)

    answers, rows = asyncio.run(scenario())
    assert rows == set(range(500)), "cancelled ones as well"
    assert {answer for answer in answers if isinstance(answer, int)} == {n for n in range(500) if n % 11}
