"""Group commit: transactions that were queued during the last fsync share one commit.

Each transaction is a plain function over the connection. The writer's thread takes a batch, opens one `BEGIN
IMMEDIATE`, executes every function, and resolves all futures after the commit, so that every answer is
durable.

A function that raises leaves no changes. Most functions that raise (refusals) have written nothing. If one
has, the whole batch is rolled back and executed again with a savepoint for each function: no caller has an
answer yet, and every transaction is re-runnable. A batch for which the disk is full is executed again one by
one, each with its own commit, because smaller transactions may fit. Savepoints in every batch would cost
10-15 % of a run's time (SQLite copies each page that is changed inside one).
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Concatenate, ParamSpec, TypeVar

from stores.errors import SCHEMA_CHANGED, StoreFull, StoreUnavailable, WrongEventLoop
from stores.sqlite_thread import ThreadConnection
from stores.tasks import AnyFuture

P = ParamSpec("P")
T = TypeVar("T")
Write = Callable[Concatenate[sqlite3.Connection, int, P], T]  # int: time of the transaction (µs since 1970)
MAX_BATCH = 128
"""Bounds the time for which an urgent transaction waits for the current batch (about 5 ms)."""
REFUSALS = 3
"""Consecutive transactions without disk space, after which the rest of a batch is not tried one by one."""


class _QueuedTransaction:
    __slots__ = ("args", "deadline", "future", "kwargs", "transaction", "unclaimed")

    def __init__(
        self,
        transaction: Callable[..., object],
        args: tuple[object, ...],
        kwargs: dict[str, object],
        future: AnyFuture,
        deadline: float,
    ) -> None:
        self.transaction, self.args, self.kwargs, self.future = transaction, args, kwargs, future
        self.deadline = deadline
        # One token, taken either by the thread that executes the transaction or by its expiry. `pop` is
        # atomic.
        self.unclaimed = [None]

    def claim(self) -> bool:
        """Returns True to the first caller only."""
        try:
            self.unclaimed.pop()
        except IndexError:
            return False
        return True


class GroupCommit:
    """The single writer of one connection, in one event loop. `clock`: the store's clock (µs since 1970)."""

    def __init__(
        self,
        connection: ThreadConnection,
        *,
        clock: Callable[[], int],
        busy_timeout: float,
        gate: Callable[[], AbstractContextManager[None]] = nullcontext,
        blocked_by: Callable[[], str] = str,
        begun: Callable[[sqlite3.Connection], None] = lambda _: None,
        as_error: Callable[[BaseException], BaseException] | None = None,
    ) -> None:
        """`begun` is called at the start of each transaction. `busy_timeout`: seconds. `as_error` translates
        errors of the database file; default: `as_store_error`."""
        self._loop = asyncio.get_running_loop()
        self._connection = connection
        self._clock = clock
        self._busy_timeout = busy_timeout
        self._gate = gate
        self._blocked_by, self._begun = blocked_by, begun
        self._as_error = as_error or as_store_error
        self._urgent: deque[_QueuedTransaction] = deque()
        self._queue: deque[_QueuedTransaction] = deque()
        self._batch: list[_QueuedTransaction] | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()
        self.transactions = 0
        self.commits = 0

    def run(self, transaction: Write[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Queues `transaction(cx, now, *args, **kwargs)`. The future is resolved when the result is durable.

        Cancelling the future does not cancel the transaction. The future raises StoreUnavailable after the
        busy timeout; then the transaction was not executed and never will be.
        """
        return self._put(self._queue, transaction, args, kwargs)

    def run_urgent(self, transaction: Write[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """As `run`, but before the transactions that `run` has queued."""
        return self._put(self._urgent, transaction, args, kwargs)

    def _put(
        self,
        queue: deque[_QueuedTransaction],
        run: Callable[..., T],
        args: tuple[object, ...],
        kwargs: dict[str, object],
    ) -> asyncio.Future[T]:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            raise WrongEventLoop("store")  # not StoreUnavailable, because the store works
        if self._closed:
            raise StoreUnavailable("the store is closing", hint="Nothing was written.")
        future: asyncio.Future[T] = loop.create_future()
        queue.append(_QueuedTransaction(run, args, kwargs, future, loop.time() + self._busy_timeout))
        if self._batch is None:
            # All transactions that are queued in this turn of the loop share the first commit.
            self._batch = []
            self._idle.clear()
            loop.call_soon(self._next_batch)
        elif self._expiry is None and self._batch:
            self._arm_expiry()
        return future

    async def close(self) -> bool:
        """Refuses further transactions, and finishes queued ones. Idempotent.

        Returns False if every caller has its answer, but the thread is still blocked by a paused process.
        """
        self._closed = True
        try:
            await asyncio.wait_for(self._idle.wait(), self._busy_timeout + 1)
        except TimeoutError:
            return False
        return True

    def _next_batch(self) -> None:
        while batch := self._take_batch():
            self._batch = batch
            try:
                future = self._connection.submit(partial(self._run_batch, batch))
            except StoreUnavailable as error:
                self._answer(batch, [StoreUnavailable(error.what, hint=error.hint) for _ in batch])
                continue
            future.add_done_callback(self._batch_done)
            self._arm_expiry()
            return
        self._batch = None
        self._idle.set()

    def _take_batch(self) -> list[_QueuedTransaction]:
        batch: list[_QueuedTransaction] = []
        for queue in (self._urgent, self._queue):
            while queue and len(batch) < MAX_BATCH:
                batch.append(queue.popleft())
        return batch

    def _arm_expiry(self) -> None:
        """Schedules `_expire` for the earliest deadline."""
        heads = [queue[0].deadline for queue in (self._urgent, self._queue) if queue]
        heads += [entry.deadline for entry in self._batch or () if entry.unclaimed]
        if heads:
            self._expiry = self._loop.call_at(min(heads), self._expire)

    def _expire(self) -> None:
        """Fails transactions that are past their deadline and have not started. They are never executed."""
        self._expiry = None
        now = self._loop.time()
        late = [entry for entry in self._batch or () if entry.deadline <= now]
        for queue in (self._urgent, self._queue):
            while queue and queue[0].deadline <= now:
                late.append(queue.popleft())
        late = [entry for entry in late if entry.claim()]
        why = f"locked for {self._busy_timeout:g} s{self._blocked_by()}" if late else ""
        for entry in late:
            if not entry.future.done():
                entry.future.set_exception(StoreUnavailable(why))
        self._arm_expiry()

    def _batch_done(self, future: AnyFuture) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        batch = self._batch or []
        if future.cancelled():
            answers: Sequence[object] = [StoreUnavailable("the event loop is shutting down")] * len(batch)
        elif (error := future.exception()) is not None:
            answers = [self._as_error(error) for _ in batch]
        else:
            answers = future.result()
        self._answer(batch, answers)
        self._next_batch()

    def _answer(self, batch: list[_QueuedTransaction], answers: Sequence[object]) -> None:
        for entry, answer in zip(batch, answers, strict=True):
            if entry.future.done():
                continue
            if isinstance(answer, BaseException):
                entry.future.set_exception(answer)
            else:
                entry.future.set_result(answer)

    def _run_batch(self, batch: list[_QueuedTransaction], cx: sqlite3.Connection) -> list[object]:
        with self._gate():
            self._begin(cx)
            claimed = [entry.claim() for entry in batch]
            live = [entry for entry, is_claimed in zip(batch, claimed, strict=True) if is_claimed]
            try:
                results = self._commit(live, cx)
            except sqlite3.Error as error:
                if len(live) < 2 or not _has_no_room(error):
                    raise
                results = self._one_by_one(live, cx)
        self.transactions += len(batch)
        answers = iter(results)
        return [next(answers) if is_claimed else None for is_claimed in claimed]

    def _begin(self, cx: sqlite3.Connection) -> None:
        if cx.in_transaction:  # an earlier ROLLBACK failed
            cx.execute("ROLLBACK")
        cx.execute("BEGIN IMMEDIATE")
        self._begun(cx)

    def _commit(self, entries: list[_QueuedTransaction], cx: sqlite3.Connection) -> list[object]:
        """Executes the entries in the open transaction, and commits. If it raises, none is written."""
        try:
            now = self._clock()
            answers = self._run_all(entries, cx, now)
            if answers is None:
                cx.execute("ROLLBACK")
                cx.execute("BEGIN IMMEDIATE")
                answers = [self._run_one(entry, cx, now) for entry in entries]
            cx.execute("COMMIT")
        except BaseException:
            if cx.in_transaction:
                cx.execute("ROLLBACK")
            raise
        self.commits += 1
        return answers

    def _one_by_one(self, entries: list[_QueuedTransaction], cx: sqlite3.Connection) -> list[object]:
        """Executes each entry in a transaction of its own, until REFUSALS consecutive ones have failed; the
        rest is refused."""
        answers: list[object] = []
        refusals = 0
        for entry in entries:
            if refusals >= REFUSALS:
                answers.append(StoreFull(_NO_ROOM))
                continue
            try:
                self._begin(cx)
                answers += self._commit([entry], cx)
                refusals = 0
            except sqlite3.Error as error:
                answers.append(self._as_error(error))
                refusals += 1
        return answers

    def _run_all(
        self, entries: list[_QueuedTransaction], cx: sqlite3.Connection, now: int
    ) -> list[object] | None:
        """Returns the answers, or None if an entry failed after it had written."""
        answers: list[object] = []
        for entry in entries:
            before = cx.total_changes
            try:
                answers.append(entry.transaction(cx, now, *entry.args, **entry.kwargs))
            except Exception as error:  # the answer of this entry alone
                if not cx.in_transaction:
                    raise  # SQLite rolled the whole transaction back (disk full, I/O error)
                if cx.total_changes != before:
                    return None
                answers.append(self._as_error(error))
        return answers

    def _run_one(self, entry: _QueuedTransaction, cx: sqlite3.Connection, now: int) -> object:
        cx.execute("SAVEPOINT one")
        try:
            answer = entry.transaction(cx, now, *entry.args, **entry.kwargs)
        except Exception as error:
            if not cx.in_transaction:
                raise
            cx.execute("ROLLBACK TO one")
            answer = self._as_error(error)
        cx.execute("RELEASE one")
        return answer


_NO_ROOM = "the disk is full"
_DAMAGED = "the database file is damaged: stop the workers and restore the backup"
_WHY = {
    sqlite3.SQLITE_BUSY: "the database is locked by another process",
    sqlite3.SQLITE_LOCKED: "the database is locked",
    sqlite3.SQLITE_FULL: _NO_ROOM,
    sqlite3.SQLITE_READONLY: "the database file is read-only",
    sqlite3.SQLITE_IOERR: "the disk reported an I/O error",
    sqlite3.SQLITE_CANTOPEN: "the database file cannot be opened",
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
}

_LASTING = {
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
}
"""A retry does not help: an operator must act."""

_MISSING = re.compile(r"no such (table|column)|has no column named")
"""In the texts of SQLite for statements that do not fit the schema; their code is that of every wrong
statement."""

_MISTAKES = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.DataError)


def as_store_error(error: BaseException) -> BaseException:
    """Translates errors of the database file into StoreUnavailable; returns any other error unchanged."""
    if isinstance(error, OSError):
        unavailable = StoreUnavailable(str(error))
    elif isinstance(error, sqlite3.DatabaseError) and not isinstance(error, _MISTAKES):
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        kind = StoreFull if _has_no_room(error) else StoreUnavailable
        hint = {"hint": "Nothing was written."} if code in _LASTING else {}
        if is_schema_fault(error):
            hint = {"hint": f"{SCHEMA_CHANGED}. Nothing was written."}
        unavailable = kind(_WHY.get(code, str(error)), **hint)
    else:
        return error
    unavailable.__cause__ = error
    return unavailable


def is_schema_fault(error: sqlite3.Error) -> bool:
    """Returns whether a table or a column that the statement names does not exist."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code == sqlite3.SQLITE_ERROR and _MISSING.search(str(error)) is not None


def _has_no_room(error: sqlite3.Error) -> bool:
    """Returns whether the disk is full, or a write failed, as it does at a quota or a file size limit."""
    code = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF == sqlite3.SQLITE_FULL or code == sqlite3.SQLITE_IOERR_WRITE


def wall_clock() -> int:
    """Returns µs since 1970. All processes of one host share this clock, so it is the store's clock."""
    return time.time_ns() // 1000
