"""The saver of a database of checkpoints."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
)
from langgraph.checkpoint.serde.base import SerializerProtocol

from coordinator.langgraph.savers.fences import OpenFences, Writer
from coordinator.langgraph.savers.postgres import reading, records, writing
from coordinator.langgraph.savers.postgres.records import CheckpointRow
from coordinator.langgraph.savers.records import encode_writes, position_of, replaces
from coordinator.langgraph.savers.saver import FencedSaver, PageReader, Selection
from coordinator.langgraph.savers.traces import Traces
from stores.postgres.connections import Connections
from stores.sql.postgres.calls import Call


class PostgresSaver(FencedSaver):
    """Over the tables of `langgraph-checkpoint-postgres`: either reads what the other wrote. Each write is
    one statement, and returns when it is durable."""

    def __init__(
        self, connections: Connections, fences: OpenFences, serde: SerializerProtocol, *, writes: int
    ) -> None:
        """`writes`: how many may be sent at once."""
        super().__init__(fences, serde)
        self._connections = connections
        self._sending = asyncio.Semaphore(writes)

    async def _write(self, writer: Writer, call: Call[None]) -> None:
        """A write that waits for a connection is refused when its fence is closed."""
        async with self._sending:
            self._fences.check(writer.thread_id, writer.fence)
            await self._connections.run(call)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        row = await self._connections.run(reading.checkpoint(position_of(config)), reads=True)
        return None if row is None else row.decode(self.serde)

    def _pages(self, selection: Selection) -> PageReader:
        where = reading.filter_of(*selection)
        return lambda after, size: self._connections.run(reading.page(where, after, size), reads=True)

    async def traces(self, thread_id: str, run_id: str) -> Traces:
        return Traces.of(
            await self._connections.run(reading.traces(thread_id, run_id), reads=True), self.serde
        )

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        position = position_of(config)
        writer = self._fences.writer(position.thread_id)
        content, blobs = records.encode(self.serde, checkpoint, new_versions)
        row = CheckpointRow(
            position.key(checkpoint["id"]),
            position.checkpoint_id,
            content,
            records.encode_metadata(config, metadata),
        )
        await self._write(writer, writing.put_checkpoint(writer, row, blobs))
        return row.key.config

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, object]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        position = position_of(config)
        writer = self._fences.writer(position.thread_id)
        encoded = encode_writes(self.serde, writes, task_id, task_path)
        call = writing.put_writes(
            writer, position.key(), encoded, (task_id, task_path), replace=replaces(writes)
        )
        await self._write(writer, call)

    async def adelete_thread(self, thread_id: str) -> None:
        """As a part of the run that calls it, which can be undone."""
        writer = self._fences.writer(thread_id)
        await self._write(writer, writing.remove_thread(writer))
