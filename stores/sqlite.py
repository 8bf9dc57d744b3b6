"""The SQLite store: one file, many processes of one host.

WAL; one writer connection with group commit behind a gate (`stores.gate`), one read connection, so
that reads never wait for the writer, one for listings, and one for reads of single rows from the event
loop. Not for network file systems: SQLite's locks do not work there.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sqlite3
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import closing, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path

from stores import gate as gates
from stores.base import EPOCH_ENDED
from stores.errors import StoreInUse, StoreUnavailable
from stores.fair_queue import PATIENCE, FairQueue
from stores.group_commit import GroupCommit, wall_clock
from stores.heart import SQLiteHeart
from stores.inspection import Inspection
from stores.life_proofs import LifeProofs
from stores.lock_watch import LockWatch
from stores.rows import Decision, NewWorker, Orphan, WorkerRow
from stores.sql.sqlite import decisions, events, inspection, schema, workers
from stores.sql.sqlite.searches import Search
from stores.sql.statement import OnConnection, P, Query, SearchStatement, Statement, T, Transaction
from stores.sqlite_connection import Preparation, Synchronous, connect, read_every_table
from stores.sqlite_registration import Registration
from stores.sqlite_thread import ThreadConnection
from stores.sqlite_transactions import SQLiteTransactions, on_connection
from stores.store_files import (
    Room,
    StoreFiles,
    check_is_file,
    check_remains,
    keep_log,
    make_private,
    plain_path,
)
from stores.tasks import begin_soon

logger = logging.getLogger(__name__)
LOOK_EVERY = 1.0  # s; how often the file is read beside the cache


class SQLiteStore(SQLiteTransactions):
    """`synchronous="FULL"`: an acknowledged write survives a power cut. "NORMAL" survives a crash of
    the process and is faster. `busy_timeout` (s) bounds every write; reads never wait, but for searches:
    `search_timeout` (s) bounds each, and three times that its wait for others. `create=False`:
    a file that does not exist is an error and stays absent. Raises ValueError for names that SQLite does not
    take for a file."""

    durable = True
    shared = True

    def __init__(
        self,
        path: str | Path,
        *,
        synchronous: Synchronous = "FULL",
        busy_timeout: float = 30.0,
        migrate: bool = True,
        create: bool = True,
        search_timeout: float = 2.0,
        clock: Callable[[], int] = wall_clock,
    ) -> None:
        self.path = plain_path(Path(path))
        self.url = f"sqlite:///{path}"
        self._synchronous: Synchronous = synchronous
        self._busy_timeout = busy_timeout
        self._migrate, self._unasked, self._applied = migrate, True, list[str]()
        self._create = create
        self._search_timeout = search_timeout
        self._searching = FairQueue(1, within=PATIENCE * search_timeout, what="searches")
        self._now = clock
        self._gate: gates.FileGate | None = None
        self.lock_watch = LockWatch(self.path, self._gate_holder)
        self._files: StoreFiles | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._looked_at = -math.inf
        self._writer: ThreadConnection | None = None
        self._reader: ThreadConnection | None = None
        self._browser: ThreadConnection | None = None
        self._glance: sqlite3.Connection | None = None
        self._commits: GroupCommit | None = None
        self._opening = asyncio.Lock()
        self.reads = 0

    async def open(self) -> None:
        """Connect, check that the file is a run store, migrate. Idempotent.

        Raises StoreRefused (foreign file), SchemaTooNew, SchemaTooOld and StoreUnavailable (no folder,
        read-only).
        """
        async with self._opening:
            if self._commits is None:
                if self._files is not None:
                    self._files.check()
                await self._open()

    async def _open(self) -> None:
        if not self.path.parent.is_dir():
            raise StoreUnavailable(
                f"folder {str(self.path.parent)!r} does not exist", hint="Create it first."
            )
        check_remains(self.path)
        if not self._create or self.path.is_dir():
            check_is_file(self.path)
        if self._create:
            make_private(self.path)
        try:
            writer = ThreadConnection(self._connect)
            await writer.connect()
            self._writer = writer
            await writer.submit(self._prepare)
            self._gate = gates.gate_of(self.path)
            self._files = StoreFiles(
                self.path, on_replaced=partial(self._replaced, asyncio.get_running_loop())
            )
            self._reader = await self._connected()
            self._glance = await self._reader.submit(lambda _: self._connect(query_only=True, timeout=0))
        except BaseException as error:
            await self._close()
            translated = self.lock_watch.error_of(error)
            if translated is error:
                raise
            raise translated from error
        self.lock_watch.start()
        self._commits = GroupCommit(
            writer,
            clock=self._now,
            busy_timeout=self._busy_timeout,
            blocked_by=self.lock_watch.locked_by,
            as_error=self.lock_watch.error_of,
            gate=self._writing,
            begun=partial(self._begun, Room(self.path)),
        )

    @contextmanager
    def _writing(self) -> Generator[None]:
        """Around each transaction. Raises StoreReplaced."""
        with self.lock_watch.waiting("writer"), nullcontext() if self._gate is None else self._gate.writing():
            self._check_files()
            yield

    def _begun(self, room: Room, cx: sqlite3.Connection) -> None:
        self.lock_watch.granted("writer")
        room.bound(cx)

    def _check_files(self) -> None:
        if self._files is not None:
            self._files.check()

    def _replaced(self, loop: asyncio.AbstractEventLoop) -> None:
        """From any thread: a call that works on the replaced file must not wait for locks of this process."""

        def begin() -> None:
            self._leaving = begin_soon(self._leave())

        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(begin)

    async def _leave(self) -> None:
        """Close all connections. From then on each call raises StoreReplaced, until `aclose`."""
        async with self._opening:
            for connection in (self._writer, self._reader, self._browser):
                if connection is not None:
                    connection.submit(keep_log)
            if self._glance is not None:
                keep_log(self._glance)
            await self._close()

    def _connect(self, *, query_only: bool = False, timeout: float | None = None) -> sqlite3.Connection:
        return connect(
            self.path, timeout=self._busy_timeout if timeout is None else timeout, query_only=query_only
        )

    def _prepare(self, cx: sqlite3.Connection) -> None:
        spare = self._now if self._unasked else None
        needed = Preparation(self.path, self._synchronous, self._busy_timeout, self._migrate, spare)
        self._applied = needed.prepare(cx) or self._applied

    async def migrate(
        self, *, patience: float = 300.0, report: Callable[[str], None] = logger.warning
    ) -> list[str]:
        """See `stores.inspection.MigratableStore`. The store is closed before and after."""
        self._unasked = False
        try:
            await self.open()
        finally:
            self._unasked = True
            await self.aclose()
        return self._applied

    async def check_version(self) -> None:
        """See `stores.base.VersionedStore`."""
        await self._read(self._check_version)

    def _check_version(self, cx: sqlite3.Connection) -> None:
        self._look_again()
        schema.check_version(cx, str(self.path))

    async def aclose(self) -> None:
        """Finish queued writes, then close all connections. Idempotent, and bounded: a writer that is
        blocked behind a paused process is left to close itself, at once where this is cancelled."""
        if self._leaving is not None:
            await asyncio.wait((self._leaving,))
        async with self._opening:
            await self._close()
            self._files = self._leaving = None

    async def _close(self) -> None:
        self.lock_watch.stop()
        idle = False
        try:
            idle = self._commits is None or await self._commits.close()
        finally:
            self._commits = None
            await self._disconnect(idle=idle)

    async def _disconnect(self, *, idle: bool) -> None:
        writer, readers, gate = self._writer, (self._reader, self._browser), self._gate
        self._writer = self._reader = self._browser = self._gate = None
        if self._glance is not None:
            self._glance.close()
            self._glance = None
        try:
            await asyncio.gather(*(reader.close() for reader in readers if reader is not None))
        finally:
            release = partial(gates.release, gate) if gate is not None else lambda: None
            if not idle and writer is not None:
                writer.abandon(then=release)
            else:
                try:
                    if writer is not None:
                        await writer.close()
                finally:
                    release()

    def _write(self, transaction: Transaction[P, T], *args: P.args, **kwargs: P.kwargs) -> Awaitable[T]:
        if self._commits is None:
            raise self._closed()
        return self._commits.run(on_connection(transaction), *args, **kwargs)

    def _write_urgent(
        self, transaction: Transaction[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> Awaitable[T]:
        if self._commits is None:
            raise self._closed()
        return self._commits.run_urgent(on_connection(transaction), *args, **kwargs)

    def _closed(self) -> StoreUnavailable:
        """Raises StoreReplaced if that is the reason."""
        self._check_files()
        return StoreUnavailable("the store is not open", hint="Use `async with`, or open() it first.")

    async def _read(self, query: Statement[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._read_over(self._reader, on_connection(query), *args, **kwargs)

    async def _search(
        self,
        query: SearchStatement[Query, P, T],
        criteria: Query,
        user_id: str | None,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Over a connection of its own, made for the first listing: a tick must not wait for it."""
        async with self._searching.place(user_id):
            if self._browser is None:
                async with self._opening:
                    if self._browser is None and self._reader is not None:
                        self._browser = await self._connected()
            with Search(self._search_timeout, rests=True) as search:
                return await self._read_over(
                    self._browser,
                    lambda cx: search.run(cx, on_connection(query), criteria, user_id, *args, **kwargs),
                )

    async def _connected(self) -> ThreadConnection:
        connection = ThreadConnection(lambda: self._connect(query_only=True))
        try:
            await connection.connect()
        except sqlite3.Error as error:
            raise self.lock_watch.error_of(error) from error
        return connection

    async def _read_over(
        self,
        reader: ThreadConnection | None,
        query: OnConnection[P, T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        if reader is None:
            raise self._closed()
        self.reads += 1

        def checked(cx: sqlite3.Connection) -> T:
            self._check_files()
            return query(cx, *args, **kwargs)

        try:
            return await reader.submit(checked)
        except sqlite3.Error as error:
            raise self.lock_watch.error_of(error) from error

    async def workers(self, *, alive_only: bool = True, counted: bool = True) -> list[WorkerRow]:
        """Each sweep and each health check of a worker calls this: so the file is checked with it. Raises
        StoreRefused where it is damaged."""
        return await self._read(self._workers, self._now(), alive_only=alive_only, counted=counted)

    def _workers(
        self, cx: sqlite3.Connection, now: int, *, alive_only: bool, counted: bool
    ) -> list[WorkerRow]:
        self._look_again()
        return workers.workers(cx, now, alive_only=alive_only, counted=counted)

    def _look_again(self) -> None:
        if time.monotonic() - self._looked_at > LOOK_EVERY:
            with closing(self._connect(query_only=True)) as fresh:
                read_every_table(fresh, self.path)
            self._looked_at = time.monotonic()

    async def standing(self, run_id: str) -> Decision | None:
        """Reads in the event loop itself: the row was just written, so its pages are in memory and the
        read takes 15 us; the hop to the reader's thread and back would take 100 to 350 us of a cancel."""
        if self._glance is not None:
            with suppress(sqlite3.OperationalError):  # busy: the reader's thread waits
                self.reads += 1
                return decisions.standing(self._glance, run_id)
        return await super().standing(run_id)

    def events_version(self) -> int | None:
        if self._glance is not None:
            with suppress(sqlite3.Error):
                return events.version(self._glance)
        return None

    async def register(self, worker: NewWorker) -> int:
        if self._commits is None or self._gate is None:
            return await super().register(worker)
        registration = Registration(self._gate, worker)
        outcome = self._commits.run(registration.run)
        outcome.add_done_callback(registration.over)
        epoch = await asyncio.shield(outcome)  # a cancelled caller does not hide how it ended
        if isinstance(epoch, StoreInUse):
            raise epoch
        self._registered[epoch] = worker.worker_id
        return epoch

    async def retire(self, epoch: int, *, error: str = EPOCH_ENDED) -> list[Orphan]:
        ended = await super().retire(epoch, error=error)
        if self._gate is not None:
            self._gate.dead(epoch)
        return ended

    def proven_dead(self, peer: WorkerRow) -> bool:
        gate = self._gate
        return gate is not None and LifeProofs(gate, gate.token).dead(peer)

    def proven_alive(self, peer: WorkerRow) -> bool:
        gate = self._gate
        return gate is not None and LifeProofs(gate, gate.token).alive(peer)

    def heart(self) -> SQLiteHeart:
        """For the heartbeat's thread: see `stores.base.HeartStore`. Raises StoreReplaced."""
        self._check_files()
        return SQLiteHeart(
            self.path,
            synchronous=self._synchronous,
            patience=self._busy_timeout,
            clock=self._now,
            worker_id=self._registered.get,
            check=self._check_files,
            watch=self.lock_watch,
        )

    def _gate_holder(self) -> int | None:
        return self._gate.writer_pid() if self._gate is not None else None

    async def inspect(self) -> Inspection:
        """Inspect the file, read-only; the store need not be open. See `stores.inspection`."""
        check_remains(self.path)
        check_is_file(self.path)
        try:
            return await asyncio.to_thread(inspection.inspect, self.path, self._now())
        except sqlite3.Error as error:
            raise self.lock_watch.error_of(error) from error

    @property
    def commits(self) -> int:
        """Transactions that reached the disk through this store object; batches count once."""
        return 0 if self._commits is None else self._commits.commits
