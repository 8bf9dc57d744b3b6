"""What the fenced savers of all databases have in common."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeAlias, TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
)
from langgraph.checkpoint.serde.base import SerializerProtocol

from coordinator.errors import WrongEventLoop
from coordinator.langgraph.savers.fences import OpenFences
from coordinator.langgraph.savers.records import (
    CheckpointKey,
    Position,
    checkpoint_id_of,
    next_version,
    position_of,
)
from coordinator.langgraph.savers.traces import Traces

T = TypeVar("T")

_PAGE = 32
"""Checkpoints that a list reads at a time."""


class Selection(NamedTuple):
    """The checkpoints of a list. `position` None: those of all threads. `before_id`: only older ones."""

    position: Position | None
    metadata: Mapping[str, object]
    before_id: str | None


class ListedCheckpoint(Protocol):
    @property
    def key(self) -> CheckpointKey: ...

    def decode(self, serde: SerializerProtocol) -> CheckpointTuple: ...


PageReader: TypeAlias = Callable[[CheckpointKey | None, int], Awaitable[Sequence[ListedCheckpoint]]]
"""Returns at most so many checkpoints, newest first, that follow the key (None: from the first on)."""


class FencedSaver(BaseCheckpointSaver[str]):
    """A saver in the event loop in which it was made. It writes for the `current_run` of its caller alone, as
    `OpenFences.writer` permits. Reads need no run.

    The synchronous methods are for other threads: nodes that are plain functions call them.
    """

    def __init__(self, fences: OpenFences, serde: SerializerProtocol) -> None:
        super().__init__(serde=serde)
        self._fences = fences
        self._loop = asyncio.get_running_loop()

    def get_next_version(self, current: str | None, channel: None) -> str:
        return next_version(current)

    def _pages(self, selection: Selection) -> PageReader:
        """Raises ValueError for a selection that the database cannot execute."""
        raise NotImplementedError

    async def traces(self, thread_id: str, run_id: str) -> Traces:
        """What the run has written to the thread, before another attempt of it."""
        raise NotImplementedError

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: Mapping[str, object] | None = None,  # noqa: A002 - as in the base
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Newest first. Reads pages: what is written meanwhile and is older may be in the list. Of `before`
        only the id counts: it needs no thread, and the id need not exist."""
        page_after = self._pages(
            Selection(
                position_of(config) if config else None,
                filter or {},
                checkpoint_id_of(before) if before else None,
            )
        )
        after, left = None, limit
        while left is None or left > 0:
            size = _PAGE if left is None else min(_PAGE, left)
            rows = await page_after(after, size)
            for row in rows:
                yield row.decode(self.serde)
            if len(rows) < size:
                return
            after, left = rows[-1].key, None if left is None else left - size

    # -- from other threads

    def _result(self, call: Coroutine[object, object, T]) -> T:
        """Of a call that the loop executes, in the context of this thread's caller."""
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is self._loop:
            call.close()
            raise WrongEventLoop("saver: its synchronous methods must be called from another thread")
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        return self._result(self.aget_tuple(config))

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: Mapping[str, object] | None = None,  # noqa: A002 - as in the base
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        listed = self.alist(config, filter=dict(filter or {}), before=before, limit=limit)
        while (one := self._result(_next(listed))) is not None:
            yield one

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        return self._result(self.aput(config, checkpoint, metadata, new_versions))

    def put_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, object]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        self._result(self.aput_writes(config, writes, task_id, task_path))

    def delete_thread(self, thread_id: str) -> None:
        self._result(self.adelete_thread(thread_id))

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        return self._result(_history(self, config, channels))


async def _next(listed: AsyncIterator[CheckpointTuple]) -> CheckpointTuple | None:
    return await anext(listed, None)


async def _history(
    saver: FencedSaver, config: RunnableConfig, channels: Sequence[str]
) -> Mapping[str, DeltaChannelHistory]:
    return await saver.aget_delta_channel_history(config=config, channels=channels)
