"""Group commit: calls of one function that arrive while a batch is under way are sent as one statement.

A batch waits for no lock. A call that it does not answer is made alone, on a connection that may wait: its
rows are locked, or it is not plain. If a whole batch fails without an answer, each of its calls is made alone
as well. So a batch never delays one call because of another, and cannot be part of a deadlock.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple, Protocol, TypeVar

from stores.postgres.connections import Connections
from stores.postgres.faults import NotConnected, fault_of
from stores.sql.columns import Columns
from stores.sql.postgres.calls import BatchFunction, Call
from stores.tasks import AnyFuture, begin_soon

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_BATCH = 100
AT_ONCE = 2  # batches of a function under way: the process works on one, the server on the other
WORTHWHILE = 20  # calls; fewer wait for a batch that is under way
BATCH_WITHIN = 5.0  # s; one that takes longer is given up, for its calls to be made alone


class _Alone(Protocol):
    """Makes a call. `since`: as for `Connections.run`."""

    async def __call__(self, call: Call[T], *, since: float | None) -> T: ...


class _Entry(NamedTuple):
    call: Call[object]
    future: AnyFuture
    since: float
    """When it was queued (loop time)."""


class Lane:
    """The batches of one function."""

    def __init__(self, function: BatchFunction, connections: Connections, alone: _Alone) -> None:
        self._function, self._connections, self._alone = function, connections, alone
        self._queue: list[_Entry] = []
        self._looking = False
        self._under_way: set[asyncio.Task[None]] = set()
        self._others: set[asyncio.Task[None]] = set()

    def put(self, call: Call[T]) -> asyncio.Future[T]:
        """The answer, once it is durable. Cancelling the future does not stop the call."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._queue.append(_Entry(call, future, loop.time()))
        self._look()
        return future

    async def drained(self) -> None:
        """Returns when every queued call has its answer."""
        while self._queue or self._under_way or self._others:
            if pending := {*self._under_way, *self._others}:
                await asyncio.wait(pending)
            else:
                await asyncio.sleep(0)

    def _look(self) -> None:
        """Soon, and not at once: calls that are made until then join the batch."""
        if not self._looking:
            self._looking = True
            asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        self._looking = False
        while self._queue and (free := AT_ONCE - len(self._under_way)):
            parts = min(len(self._queue) // WORTHWHILE, free)
            if self._under_way and not parts:
                break
            size = min(-(-len(self._queue) // max(parts, 1)), MAX_BATCH)
            batch, self._queue = self._queue[:size], self._queue[size:]
            task = begin_soon(self._send(batch), name=f"a batch of {self._function.name}")
            self._under_way.add(task)
            task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._look()

    async def _send(self, batch: list[_Entry]) -> None:
        batch.sort(key=lambda entry: entry.call.key)
        calls = self._function.batch([entry.call for entry in batch])
        left = dict(enumerate(batch, 1))
        connected = True
        try:
            until = asyncio.get_running_loop().time() + BATCH_WITHIN
            since = min(entry.since for entry in batch)
            rows = await self._connections.rows_once(self._function.sql_of_batch, calls, until, since)
        except Exception as error:
            # The failing call is identified when each is made alone.
            logger.debug("A batch of %d calls is made one by one", len(batch), exc_info=True)
            connected = not isinstance(error, NotConnected)
            if fault_of(error).unanswered:  # perhaps written, and its answer lost
                left = {at: entry._replace(call=_made_again(entry.call)) for at, entry in left.items()}
        else:
            for place, *columns_of_one in rows:
                entry = left.pop(place)
                _settle(entry.call, entry.future, columns_of_one)
        for call, future, since in left.values():
            task = begin_soon(self._make_alone(call, future, None if connected else since))
            self._others.add(task)
            task.add_done_callback(self._others.discard)

    async def _make_alone(self, call: Call[T], future: asyncio.Future[T], since: float | None) -> None:
        try:
            answer = await self._alone(call, since=since)
        except BaseException as error:  # noqa: BLE001 - it belongs to the caller that waits for the future
            if not future.done():
                future.set_exception(error)
        else:
            if not future.done():
                future.set_result(answer)


def _made_again(call: Call[T]) -> Call[T]:
    return replace(call, answer=call.again or call.answer, unanswered=True)


def _settle(call: Call[T], future: asyncio.Future[T], columns: Columns) -> None:
    if future.done():
        return
    try:
        future.set_result(call.answer([columns]))
    except Exception as error:  # noqa: BLE001 - a refusal: it belongs to the caller that waits for the future
        with suppress(asyncio.InvalidStateError):
            future.set_exception(error)
