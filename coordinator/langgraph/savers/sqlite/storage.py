"""What the states of graphs need of a checkpoint file."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from langgraph.checkpoint.serde.base import SerializerProtocol

from coordinator.langgraph.savers.fences import OpenFences
from coordinator.langgraph.savers.saver import FencedSaver
from coordinator.langgraph.savers.sqlite import pruning, writing
from coordinator.langgraph.savers.sqlite.file import CheckpointFile
from coordinator.langgraph.savers.sqlite.saver import SQLiteSaver
from coordinator.langgraph.savers.storage import Head


class SQLiteStorage:
    def __init__(self, file: CheckpointFile) -> None:
        self._file = file
        digest = hashlib.sha256(str(file.path.resolve()).encode()).hexdigest()
        self.kind = f"langgraph-sqlite:{digest[:12]}"

    @asynccontextmanager
    async def opened(self, fences: OpenFences, serde: SerializerProtocol) -> AsyncGenerator[FencedSaver]:
        async with self._file.opened():
            yield SQLiteSaver(self._file, fences, serde)

    async def begin(self, thread_id: str, run_id: str, fence: int) -> Head:
        return await self._file.write(writing.begin, thread_id, run_id, fence)

    async def undo(self, thread_id: str, run_id: str, fence: int) -> None:
        await self._file.write(writing.undo, thread_id, run_id, fence)

    async def forget(self, run_ids: Sequence[str]) -> None:
        await self._file.write(writing.forget, run_ids)

    async def copy(self, source: str, target: str, fence: int) -> None:
        await self._file.write(writing.copy, source, target, fence)

    async def keep_latest(self, thread_id: str, fence: int) -> None:
        await self._file.write(pruning.keep_latest, thread_id, fence)

    async def delete(self, thread_id: str, fence: int) -> None:
        await self._file.write(writing.delete, thread_id, fence)
