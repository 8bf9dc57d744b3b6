"""Writes of a run that its graph does not wait for."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar

from coordinator.langgraph.savers.fences import OpenFences, Writer
from coordinator.langgraph.savers.sqlite import writing
from coordinator.langgraph.savers.sqlite.file import CheckpointFile
from stores.tasks import begin_soon

_AT_ONCE = 128
"""Bounds the time for which a transaction keeps other processes from the file."""

Write = Callable[[sqlite3.Connection], None]


class WriteBehind:
    """Writes of one run in their order. Each transaction has all that were queued while the one before was
    committed. After a failure none is written any more, so that no checkpoint follows one that is missing."""

    def __init__(self, file: CheckpointFile, fences: OpenFences, writer: Writer) -> None:
        self.file, self.writer = file, writer
        self._fences = fences
        self._queue: list[Write] = []
        self._task: asyncio.Task[None] | None = None
        self._error: Exception | None = None

    def add(self, write: Write) -> None:
        """Raises the error of an earlier write."""
        if self._error is not None:
            raise self._error
        self._queue.append(write)
        if self._task is None or self._task.done():
            self._task = begin_soon(self._write())

    async def written(self) -> None:
        """Returns when all queued writes are durable. Raises StaleFence, StoreUnavailable."""
        while self._task is not None and not self._task.done():
            await asyncio.wait((self._task,))
        if self._error is not None:
            raise self._error

    async def _write(self) -> None:
        try:
            while self._queue:
                writes, self._queue = self._queue[:_AT_ONCE], self._queue[_AT_ONCE:]
                await self.file.write(writing.write, self._fences, self.writer, writes)
        except Exception as error:  # noqa: BLE001 - raised by `add` and `written`
            self._error = error
            self._queue.clear()
            self._fences.heads.drop(self.writer.thread_id, self.writer.fence)


class Scope:
    """The code that a run executes. `writes`: None before its first write."""

    def __init__(self) -> None:
        self.writes: WriteBehind | None = None
        self.closed = False


_scope: ContextVar[Scope | None] = ContextVar("write_behind", default=None)


@asynccontextmanager
async def write_behind() -> AsyncGenerator[None]:
    """Until it exits, the savers of SQLite files return from the writes of the current run when they are
    queued. Exits when they are durable, even if it is cancelled meanwhile. Raises their error unless the body
    raises."""
    scope = Scope()
    token = _scope.set(scope)
    try:
        yield
    except GeneratorExit:  # its task is discarded with the event loop
        raise
    except BaseException:
        await _written(scope)
        raise
    else:
        if (error := await _written(scope)) is not None:
            raise error
    finally:
        scope.closed = True
        with suppress(ValueError):  # a discarded task ends with the variables of another one
            _scope.reset(token)


async def _written(scope: Scope) -> BaseException | None:
    """Returns the error of the writes, or the cancel that came meanwhile."""
    cancelled: asyncio.CancelledError | None = None
    while scope.writes is not None:
        try:
            await scope.writes.written()
        except asyncio.CancelledError as error:
            cancelled = error
        except Exception as error:  # noqa: BLE001 - for the caller
            return cancelled or error
        else:
            break
    return cancelled


def pending(file: CheckpointFile) -> WriteBehind | None:
    """Returns the writes of the run that executes the caller, if it has written to this file."""
    scope = _scope.get()
    writes = None if scope is None else scope.writes
    return writes if writes is not None and writes.file is file else None


def queue_of(file: CheckpointFile, fences: OpenFences, writer: Writer) -> WriteBehind | None:
    """Returns where the caller's writes are queued; None if they must be durable when the saver returns."""
    scope = _scope.get()
    if scope is None or scope.closed:
        return None
    if scope.writes is None:
        scope.writes = WriteBehind(file, fences, writer)
    return scope.writes if scope.writes.file is file and scope.writes.writer == writer else None
