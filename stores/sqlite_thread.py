"""A SQLite connection that lives in a thread of its own, which runs whole functions over it one by one."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

from stores.errors import StoreUnavailable

T = TypeVar("T")
_Jobs = SimpleQueue[Callable[[], None] | None]


class ThreadConnection:
    """Its thread ends when it is closed, or when nobody refers to it any more."""

    def __init__(self, connector: Callable[[], sqlite3.Connection]) -> None:
        """`connector` is called in the thread."""
        self._connector = connector
        self._connection: sqlite3.Connection | None = None
        self._jobs: _Jobs = SimpleQueue()
        # A thread that blocks at the gate behind a paused process must not keep this process alive.
        self._thread = threading.Thread(target=_work, args=(self._jobs,), name="sqlite", daemon=True)
        weakref.finalize(self, self._jobs.put, None)

    async def connect(self) -> None:
        """Start the thread and connect. A failure, or a cancellation, leaves neither behind."""
        self._thread.start()
        made: list[sqlite3.Connection] = []
        try:
            await self._soon(lambda: made.append(self._connector()))
        except BaseException:
            # The thread's last word must not find a closed event loop.
            await self._soon(lambda: [connection.close() for connection in made])
            self._jobs.put(None)
            raise
        self._connection = made[0]

    def submit(self, function: Callable[[sqlite3.Connection], T]) -> asyncio.Future[T]:
        """Queue a function for the thread. It runs even if the future is cancelled. Raises StoreUnavailable
        where the connection is closed."""
        if self._connection is None:
            raise StoreUnavailable("the store is closed", hint="Open it first.")
        return self._soon(partial(function, self._connection))

    async def close(self) -> None:
        """After all that was submitted. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                await self._soon(connection.close)
            finally:
                self._jobs.put(None)

    def abandon(self, then: Callable[[], None]) -> None:
        """Close whenever the thread gets there, then call `then` in it. Waits for nothing."""
        connection, self._connection = self._connection, None

        def last() -> None:
            if connection is not None:
                connection.close()
            then()

        self._jobs.put(last)
        self._jobs.put(None)

    def _soon(self, function: Callable[[], T]) -> asyncio.Future[T]:
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.put(partial(_run_and_tell, future, function))
        return future


def _work(jobs: _Jobs) -> None:
    while (job := jobs.get()) is not None:
        job()
        del job  # it may be the last that knows of a large result


def _run_and_tell(future: asyncio.Future[Any], function: Callable[[], Any]) -> None:
    """Answer into the event loop, unless it was closed meanwhile."""
    tell: Callable[[], None]
    try:
        answer = function()
    except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits for the future
        tell = partial(_settle, future, None, error)
    else:
        tell = partial(_settle, future, answer, None)
    with suppress(RuntimeError):
        future.get_loop().call_soon_threadsafe(tell)


def _settle(future: asyncio.Future[Any], answer: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(answer)
    else:
        future.set_exception(error)
