"""The saver of a checkpoint file."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
)
from langgraph.checkpoint.serde.base import SerializerProtocol

from coordinator.langgraph.savers import records
from coordinator.langgraph.savers.fences import OpenFences, Writer
from coordinator.langgraph.savers.records import CheckpointKey, Position, StoredCheckpoint, position_of
from coordinator.langgraph.savers.saver import FencedSaver, PageReader, Selection
from coordinator.langgraph.savers.sqlite import reading, writing
from coordinator.langgraph.savers.sqlite.behind import Write, pending, queue_of
from coordinator.langgraph.savers.sqlite.file import CheckpointFile
from coordinator.langgraph.savers.traces import Traces

_DURABILITY = "__pregel_durability"
"""The key of a config with what the graph was called with, if it was."""


class SQLiteSaver(FencedSaver):
    """Over the tables of `langgraph-checkpoint-sqlite`: either reads what the other wrote. Each method is one
    transaction, and returns when it is durable; within `write_behind`, when it is queued, unless the graph
    waits for it."""

    def __init__(self, file: CheckpointFile, fences: OpenFences, serde: SerializerProtocol) -> None:
        super().__init__(fences, serde)
        self._file = file

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        position = position_of(config)
        row = await self._read(position)
        if row is None:
            return None
        return row.decode(self.serde, config if position.checkpoint_id else None)

    def _pages(self, selection: Selection) -> PageReader:
        where = reading.filter_of(*selection)

        async def page(after: CheckpointKey | None, size: int) -> Sequence[StoredCheckpoint]:
            await self._written()
            return await self._file.list(reading.page, where, after, size)

        return page

    async def _read(self, position: Position) -> StoredCheckpoint | None:
        if position.checkpoint_id is None and not position.namespace:
            head = self._fences.head(position.thread_id)
            if head is not None:
                return head[0]
        await self._written()
        return await self._file.read(reading.checkpoint, position)

    async def _written(self) -> None:
        """A run reads what it has written."""
        if (writes := pending(self._file)) is not None:
            await writes.written()

    async def _write(
        self,
        writer: Writer,
        key: CheckpointKey,
        write: Write,
        *,
        checkpoint: StoredCheckpoint | None = None,
        durable: bool,
    ) -> None:
        """`checkpoint`: what the write puts at `key`. `durable`: the graph waits for it."""
        queue = queue_of(self._file, self._fences, writer)
        if queue is None:
            self._fences.heads.wrote(writer.fence, key)
            await self._file.write(writing.write, self._fences, writer, (write,))
            return
        queue.add(write)
        self._fences.heads.wrote(writer.fence, key, checkpoint)
        if durable:
            await queue.written()

    async def traces(self, thread_id: str, run_id: str) -> Traces:
        return Traces.of(await self._file.read(reading.traces, thread_id, run_id), self.serde)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        position = position_of(config)
        writer = self._fences.writer(position.thread_id)
        row = StoredCheckpoint(
            position.key(checkpoint["id"]),
            position.checkpoint_id,
            *self.serde.dumps_typed(checkpoint),
            records.encode_metadata(config, metadata),
        )
        write = partial(writing.put_checkpoint, writer, row)
        await self._write(writer, row.key, write, checkpoint=row, durable=_is_sync(config))
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
        encoded = records.encode_writes(self.serde, writes, task_id, task_path)
        replace = records.replaces(writes)
        key = position.key()
        write = partial(writing.put_writes, writer, key, encoded, replace=replace)
        special = any(channel in WRITES_IDX_MAP for channel, _ in writes)
        await self._write(writer, key, write, durable=special or _is_sync(config))

    async def adelete_thread(self, thread_id: str) -> None:
        """As a part of the run that calls it, which can be undone."""
        writer = self._fences.writer(thread_id)
        self._fences.heads.drop(writer.thread_id, writer.fence)
        key = CheckpointKey(thread_id, "", "")
        await self._write(writer, key, partial(writing.remove_thread, writer), durable=True)


def _is_sync(config: RunnableConfig) -> bool:
    """Whether the graph starts a step when the one before is durable."""
    return config.get("configurable", {}).get(_DURABILITY) == "sync"
