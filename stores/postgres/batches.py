"""Group commit: calls of one function that came while the last batch was under way go out as one statement.

It waits for no lock. What somebody is in the way of is answered with 'busy' and made alone, on a connection
that may wait; and what nobody could say of a whole batch is made alone as well, each call for itself. So a
batch never delays one call for another's sake, and cannot be part of a deadlock.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from stores.postgres.connections import Connections
from stores.sql.postgres.calls import Call, Function

logger = logging.getLogger(__name__)

MAX_BATCH = 100
BATCH_WITHIN = 5.0  # s; one that takes longer is given up, for its calls to be made alone
_BUSY = "busy"
_Alone = Callable[[Call], Awaitable[Any]]


class Lane:
    """The batches of one function, one after another."""

    def __init__(self, function: Function, connections: Connections, alone: _Alone) -> None:
        self._function, self._connections, self._alone = function, connections, alone
        self._queue: list[tuple[Call, asyncio.Future[Any]]] = []
        self._task: asyncio.Task[None] | None = None
        self._others: set[asyncio.Task[None]] = set()

    def put(self, call: Call) -> asyncio.Future[Any]:
        """The answer, once it is durable. Cancelling the future does not stop the call."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._queue.append((call, future))
        if self._task is None:
            self._task = loop.create_task(self._run(), name=f"batches of {self._function.name}")
        return future

    async def drained(self) -> None:
        """When all that was put in has its answer."""
        while self._task is not None or self._others:
            await asyncio.wait({*self._others, *([self._task] if self._task is not None else [])})

    async def _run(self) -> None:
        try:
            while self._queue:
                batch, self._queue = self._queue[:MAX_BATCH], self._queue[MAX_BATCH:]
                batch.sort(key=lambda entry: entry[0].key)
                await self._send(batch)
        finally:
            self._task = None

    async def _send(self, batch: list[tuple[Call, asyncio.Future[Any]]]) -> None:
        columns = tuple(map(list, zip(*(call.args for call, _ in batch), strict=True)))
        left = dict(enumerate(batch, 1))
        try:
            until = asyncio.get_running_loop().time() + BATCH_WITHIN
            rows = await self._connections.rows_once(self._function.sql_of_many, columns, until)
        except Exception:
            # Whose fault it is turns out when each is made alone.
            logger.debug("A batch of %d calls is made one by one", len(batch), exc_info=True)
        else:
            for place, *columns_of_one in rows:
                if columns_of_one[0] != _BUSY:
                    call, future = left.pop(place)
                    _settle(call, future, columns_of_one)
        for call, future in left.values():
            task = asyncio.get_running_loop().create_task(self._make_alone(call, future))
            self._others.add(task)
            task.add_done_callback(self._others.discard)

    async def _make_alone(self, call: Call, future: asyncio.Future[Any]) -> None:
        try:
            answer = await self._alone(call)
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits for the future
            if not future.done():
                future.set_exception(error)
        else:
            if not future.done():
                future.set_result(answer)


def _settle(call: Call, future: asyncio.Future[Any], columns: list[Any]) -> None:
    if future.done():
        return
    try:
        future.set_result(call.answer([columns]))
    except Exception as error:  # noqa: BLE001 - a refusal: it belongs to whoever waits for the future
        with suppress(asyncio.InvalidStateError):
            future.set_exception(error)
