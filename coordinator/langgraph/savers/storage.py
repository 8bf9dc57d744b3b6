"""The port of a database with checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

from langgraph.checkpoint.serde.base import SerializerProtocol

from coordinator.errors import InvalidArgument
from coordinator.langgraph.savers.fences import OpenFences
from coordinator.langgraph.savers.records import StoredCheckpoint
from coordinator.langgraph.savers.saver import FencedSaver

TOMBSTONES_KEPT = 7 * 86_400
"""s. A process that was paused for longer could begin to write a thread that was deleted meanwhile."""
PURGED_AT_ONCE = 100
DELTA_MARKS = ("counters_since_delta_snapshot", "delta_writes_versioned")
"""Keys of the metadata of checkpoints with a DeltaChannel."""


def with_delta_channel(thread_id: str) -> InvalidArgument:
    why = (
        f"keep_latest: the values of thread {thread_id!r} are in former checkpoints, because its graph has a"
    )
    return InvalidArgument("strategy", f"{why} DeltaChannel. Nothing of it was removed")


class Head(NamedTuple):
    """The newest checkpoint of a thread's root graph and the run that wrote it, and the newest one of all its
    graphs. None: there is none, or it is unknown. `checkpoint`: it with its writes, if they were read too."""

    checkpoint_id: str | None = None
    run_id: str | None = None
    newest_id: str | None = None
    checkpoint: StoredCheckpoint | None = None


class Storage(Protocol):
    """Each method is atomic with its check of the fence, idempotent, and durable when it returns. Raises
    StaleFence, StoreUnavailable."""

    @property
    def kind(self) -> str:
        """Names the database too, the same in every process."""
        ...

    def opened(
        self, fences: OpenFences, serde: SerializerProtocol
    ) -> AbstractAsyncContextManager[FencedSaver]: ...

    async def begin(self, thread_id: str, run_id: str, fence: int) -> Head:
        """Advance the fence of the thread, then read its head. Also removes undo data of earlier runs of the
        thread, which have settled."""
        ...

    async def undo(self, thread_id: str, run_id: str, fence: int) -> None:
        """Put all rows back as they were before the run. No write with this fence or a lower one is accepted
        any more."""
        ...

    async def forget(self, run_ids: Sequence[str]) -> None:
        """Remove the undo data of runs."""
        ...

    async def copy(self, source: str, target: str, fence: int) -> None: ...

    async def keep_latest(self, thread_id: str, fence: int) -> None:
        """Remove all checkpoints but the newest of each namespace, as LangGraph's own savers do. The
        namespace of a call of a subgraph (it has a `:`) is removed with the checkpoint of the root graph that
        the call began at. Raises InvalidArgument for a thread with a DeltaChannel, whose values are in former
        checkpoints."""
        ...

    async def delete(self, thread_id: str, fence: int) -> None:
        """Remove the thread and its undo data; from then on, lower fences are refused, and writes with this
        one until `begin`. StaleFence if a newer run has opened the thread. The fence itself is removed
        TOMBSTONES_KEPT s later, by the delete of any thread."""
        ...
