"""The heart of a PostgreSQL store: renews leases over a connection of its own, from a thread of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from stores.postgres.connections import connect_arguments
from stores.postgres.driver import Connection
from stores.postgres.faults import AGAIN, fault_of
from stores.postgres.hosts import Hosts
from stores.postgres.options import Options
from stores.sql.postgres import workers
from stores.sql.postgres.schema import named

BEAT_WITHIN = 2.0
"""s. A server that does not answer in time is searched for again: a lease leaves room for several
attempts."""
CONNECT_WITHIN = 3.0
"""s, at each server. An attempt that began while the network was silent is not answered after it has
recovered: the heartbeat is late by this time then. A server that takes longer to accept a session has no room
for leases."""
_GRACE = 0.5  # s


class PostgresHeart:
    """Made and used in one thread, with an event loop that turns only during a beat. Neither load on the
    store's other connections nor a blocked event loop of the process delays it."""

    def __init__(
        self,
        hosts: Hosts,
        options: Options,
        *,
        now: Callable[[], int | None],
        worker_id: Callable[[int], str | None],
    ) -> None:
        self._hosts, self._options, self._now = hosts, options, now
        self._worker_id = worker_id
        self._runner = asyncio.Runner()
        self._cx: Connection | None = None

    def beat(self, epoch: int) -> bool:
        """See `stores.base.Heart`."""
        return self._runner.run(self._beat(epoch))

    async def _beat(self, epoch: int) -> bool:
        """Over the open connection and, where that fails, once more over a new one."""
        fresh = self._cx is None
        try:
            return await self._beat_once(epoch)
        except Exception as error:
            fault = fault_of(error)
            self._drop()
            if fresh or fault.kind not in AGAIN:
                raise fault.as_error(error) from error
        try:
            return await self._beat_once(epoch)
        except Exception as error:
            self._drop()
            raise fault_of(error).as_error(error) from error

    async def _beat_once(self, epoch: int) -> bool:
        if self._cx is None:
            arguments = connect_arguments(self._options, longest=BEAT_WITHIN, grace=_GRACE)
            arguments["timeout"] = CONNECT_WITHIN
            self._cx = await self._hosts.connect(**arguments)
        call = workers.beat(self._now(), epoch, self._worker_id(epoch))
        rows = await self._cx.fetch(named(call.statement.sql, self._options.schema), *call.args)
        return call.answer(rows)

    def _drop(self) -> None:
        cx, self._cx = self._cx, None
        if cx is not None:
            cx.terminate()

    def close(self) -> None:
        self._drop()
        self._runner.close()
