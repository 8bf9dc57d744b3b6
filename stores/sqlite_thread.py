"""A SQLite connection in a thread of its own, which executes functions on it one by one."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import TypeVar

from stores.errors import StoreUnavailable
from stores.tasks import AnyFuture

T = TypeVar("T")
_Jobs = SimpleQueue[Callable[[], None] | None]


class ThreadConnection:
    """The thread ends when the connection is closed or garbage-collected."""

    def __init__(self, connector: Callable[[], sqlite3.Connection]) -> None:
        """`connector` is called in the thread."""
        self._connector = connector
        self._connection: sqlite3.Connection | None = None
        self._jobs: _Jobs = SimpleQueue()
        # A daemon: a thread that waits at the gate for a paused process must not keep this process alive.
        self._thread = threading.Thread(target=_work, args=(self._jobs,), name="sqlite", daemon=True)
        weakref.finalize(self, self._jobs.put, None)

    async def connect(self) -> None:
        """Starts the thread and connects. After an error or a cancellation, neither is left."""
        self._thread.start()
        made: list[sqlite3.Connection] = []
        try:
            await self._soon(lambda: made.append(self._connector()))
        except BaseException:
            # Wait for the thread, because it must not resolve a future of a closed event loop.
            await self._soon(lambda: [connection.close() for connection in made])
            self._jobs.put(None)
            raise
        self._connection = made[0]

    def submit(self, function: Callable[[sqlite3.Connection], T]) -> asyncio.Future[T]:
        """Queues a function for the thread. It is executed even if the future is cancelled. Raises
        StoreUnavailable if the connection is closed."""
        if self._connection is None:
            raise StoreUnavailable("the store is closed", hint="Open it first.")
        return self._soon(partial(function, self._connection))

    async def close(self) -> None:
        """Closes the connection after all submitted functions. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                await self._soon(connection.close)
            finally:
                self._jobs.put(None)

    def abandon(self, then: Callable[[], None]) -> None:
        """Close when the thread has finished earlier work, then call `then` in it. Waits for nothing."""
        connection, self._connection = self._connection, None

        def last() -> None:
            if connection is not None:
                connection.close()
            then()

        self._jobs.put(last)
        self._jobs.put(None)

    def _soon(self, function: Callable[[], T]) -> asyncio.Future[T]:
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.put(partial(_run, future, function))
        return future


def _work(jobs: _Jobs) -> None:
    while (job := jobs.get()) is not None:
        job()
        del job  # it may have the last reference to a large result


def _run(future: AnyFuture, function: Callable[[], object]) -> None:
    """Executes `function`, and resolves the future on its event loop, unless that was closed meanwhile."""
    resolve: Callable[[], None]
    try:
        answer = function()
    except BaseException as error:  # noqa: BLE001 - passed on to the future
        resolve = partial(_resolve, future, None, error)
    else:
        resolve = partial(_resolve, future, answer, None)
    with suppress(RuntimeError):
        future.get_loop().call_soon_threadsafe(resolve)


def _resolve(future: AnyFuture, answer: object, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(answer)
    else:
        future.set_exception(error)
