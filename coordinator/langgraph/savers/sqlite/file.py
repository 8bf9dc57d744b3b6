"""The connections of a checkpoint file, in one event loop: a writer with group commit, a reader, and one for
lists, so that no read waits for a write or for a list."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from coordinator.langgraph.savers.sqlite.schema import Synchronous, prepare
from stores import gate as gates
from stores.errors import StoreUnavailable
from stores.group_commit import GroupCommit, wall_clock
from stores.lock_watch import LockWatch
from stores.sqlite_connection import connect
from stores.sqlite_thread import ThreadConnection
from stores.store_files import Room, StoreFiles, check_remains, make_private, plain_path

P = ParamSpec("P")
T = TypeVar("T")
OnConnection = Callable[Concatenate[sqlite3.Connection, P], T]


class CheckpointFile:
    """`synchronous="FULL"`: a checkpoint that was acknowledged survives a power cut; "NORMAL": a crash of the
    process. `busy_timeout` (s) bounds every write. Not for network file systems."""

    def __init__(
        self, path: str | Path, *, synchronous: Synchronous = "FULL", busy_timeout: float = 30.0
    ) -> None:
        self.path = plain_path(Path(path))
        self._synchronous: Synchronous = synchronous
        self._busy_timeout = busy_timeout
        self._gate: gates.FileGate | None = None
        self._files: StoreFiles | None = None
        self._watch = LockWatch(self.path, self._gate_holder)
        self._commits: GroupCommit | None = None
        self._reader: ThreadConnection | None = None
        self._lister: ThreadConnection | None = None

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None]:
        """Raises StoreRefused for another program's file, StoreUnavailable."""
        if not self.path.parent.is_dir():
            folder = str(self.path.parent)
            raise StoreUnavailable(f"folder {folder!r} does not exist", hint="Create it first.")
        check_remains(self.path)
        make_private(self.path)
        async with AsyncExitStack() as stack:
            try:
                await self._open(stack)
            except sqlite3.Error as error:
                raise self._watch.error_of(error) from error
            yield

    async def _open(self, stack: AsyncExitStack) -> None:
        self._gate = gates.gate_of(self.path)
        if self._gate is not None:
            stack.callback(gates.release, self._gate)
        writer = await self._connected(stack, query_only=False)
        await writer.submit(self._prepare)
        self._reader = await self._connected(stack, query_only=True)
        self._lister = await self._connected(stack, query_only=True)
        self._files = StoreFiles(self.path)
        self._commits = GroupCommit(
            writer,
            clock=wall_clock,
            busy_timeout=self._busy_timeout,
            gate=self._writing,
            blocked_by=self._watch.locked_by,
            begun=Room(self.path).bound,
            as_error=self._watch.error_of,
        )
        stack.push_async_callback(self._close)

    async def _close(self) -> None:
        commits, self._commits, self._reader, self._lister = self._commits, None, None, None
        if commits is not None:
            await commits.close()

    async def _connected(self, stack: AsyncExitStack, *, query_only: bool) -> ThreadConnection:
        connection = ThreadConnection(
            partial(connect, self.path, timeout=self._busy_timeout, query_only=query_only)
        )
        await connection.connect()
        stack.push_async_callback(connection.close)
        return connection

    def _prepare(self, cx: sqlite3.Connection) -> None:
        with nullcontext() if self._gate is None else self._gate.writing():
            prepare(cx, self.path, self._synchronous, self._busy_timeout)

    @contextmanager
    def _writing(self) -> Generator[None]:
        with nullcontext() if self._gate is None else self._gate.writing():
            if self._files is not None:
                self._files.check()
            yield

    def _gate_holder(self) -> int | None:
        return None if self._gate is None else self._gate.writer_pid()

    def write(self, transaction: OnConnection[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """The future is resolved when the transaction is durable. Transactions that wait together share a
        commit. Cancelling the future does not cancel the transaction. Raises what the transaction raises, and
        StoreUnavailable."""
        if self._commits is None:
            raise self._not_open()
        return self._commits.run(lambda cx, _: transaction(cx, *args, **kwargs))

    async def read(self, query: OnConnection[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._read_over(self._reader, lambda cx: query(cx, *args, **kwargs))

    async def list(self, query: OnConnection[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `read`, for reads that take long."""
        return await self._read_over(self._lister, lambda cx: query(cx, *args, **kwargs))

    async def _read_over(
        self, connection: ThreadConnection | None, query: Callable[[sqlite3.Connection], T]
    ) -> T:
        if connection is None or self._files is None:
            raise self._not_open()
        self._files.check()
        try:
            return await connection.submit(query)
        except sqlite3.Error as error:
            raise self._watch.error_of(error) from error

    def _not_open(self) -> StoreUnavailable:
        return StoreUnavailable(
            f"the file of checkpoints {str(self.path)!r} is not open",
            hint="Use `async with states.opened()`.",
        )
