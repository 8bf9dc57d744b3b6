"""What the states of graphs need of a database of checkpoints."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from langgraph.checkpoint.serde.base import SerializerProtocol

from coordinator.langgraph.savers.fences import OpenFences
from coordinator.langgraph.savers.postgres import pruning, schema, writing
from coordinator.langgraph.savers.postgres.saver import PostgresSaver
from coordinator.langgraph.savers.saver import FencedSaver
from coordinator.langgraph.savers.storage import Head
from stores.errors import StoreUnavailable
from stores.postgres.address import Address
from stores.postgres.connections import Connections, connect_arguments
from stores.postgres.faults import fault_of
from stores.postgres.hosts import Hosts
from stores.postgres.options import Options


class PostgresStorage:
    """Raises ValueError for a URL that leads to no server."""

    def __init__(self, url: str, options: Options) -> None:
        address = Address(url)
        self._hosts, self._options = Hosts(address), options
        self._open: Connections | None = None
        place = address.redacted.rpartition("@")[2].rpartition("://")[2]
        digest = hashlib.sha256(place.encode()).hexdigest()
        self.kind = f"langgraph-postgres:{digest[:12]}"

    @asynccontextmanager
    async def opened(self, fences: OpenFences, serde: SerializerProtocol) -> AsyncGenerator[FencedSaver]:
        await self._prepare()
        longest = self._options.busy_timeout
        connections = Connections(
            self._hosts,
            self._options,
            size=self._options.connections,
            longest=longest,
            name="checkpoints",
        )
        await connections.open()
        self._open = connections
        try:
            yield PostgresSaver(connections, fences, serde, writes=self._options.connections)
        finally:
            self._open = None
            await connections.aclose()

    async def _prepare(self) -> None:
        try:
            cx = await self._hosts.connect(
                **connect_arguments(self._options, longest=self._options.busy_timeout)
            )
            try:
                await schema.prepare(cx)
            finally:
                await cx.close()
        except Exception as error:
            raise fault_of(error).as_error(error) from error

    @property
    def _connections(self) -> Connections:
        if self._open is None:
            raise StoreUnavailable(
                "the database of checkpoints is not open", hint="Use `async with states.opened()`."
            )
        return self._open

    async def begin(self, thread_id: str, run_id: str, fence: int) -> Head:
        await self._connections.run(writing.advance(thread_id, fence))
        return await self._connections.run(writing.begin(thread_id, run_id, fence))

    async def undo(self, thread_id: str, run_id: str, fence: int) -> None:
        await self._connections.run(writing.advance(thread_id, fence, sealed=True))
        await self._connections.run(writing.undo(thread_id, run_id, fence))

    async def forget(self, run_ids: Sequence[str]) -> None:
        await self._connections.run(writing.forget(run_ids))

    async def copy(self, source: str, target: str, fence: int) -> None:
        await self._connections.run(writing.advance(target, fence))
        await self._connections.run(writing.copy(source, target, fence))

    async def keep_latest(self, thread_id: str, fence: int) -> None:
        await self._connections.run(writing.advance(thread_id, fence))
        await self._connections.run(pruning.check(thread_id))
        await self._connections.run(pruning.keep_latest(thread_id, fence))

    async def delete(self, thread_id: str, fence: int) -> None:
        await self._connections.run(writing.advance(thread_id, fence, sealed=True))
        await self._connections.run(writing.delete(thread_id, fence))
