"""The checkpoint port: reads the history of a thread's state, one checkpoint for each run or operation that
wrote its values.

A checkpoint is stored in the row of the run that wrote it. It is removed with that row: when the run or its
thread is deleted or pruned; and before that by `keep_latest_checkpoint`.

Errors of every call: StoreUnavailable, StoreRefused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from stores.json_values import JsonObject
from stores.rows import Json, Ownership
from stores.states import RunStatus


@dataclass(frozen=True, slots=True)
class CheckpointRow:
    """The state that a run or an operation left on its thread; until it settles, what it has saved so far."""

    run_id: str
    kind: str
    assistant_id: str | None
    status: RunStatus
    paused: bool
    settled: bool
    interrupts: Json
    metadata: JsonObject
    kwargs: JsonObject
    fence: int
    values: Json
    previous: str | None
    """The run that left the previous state, in the order in which runs held the thread."""
    written_at: int
    current: bool
    """Whether these are the thread's values at this moment."""
    base_removed: bool
    """The state with which the run began was removed by `keep_latest_checkpoint`."""


@runtime_checkable
class CheckpointStore(Protocol):
    async def checkpoints(
        self, thread_id: str, *, run_id: str | None = None, before: str | None = None, limit: int = 10
    ) -> list[CheckpointRow]:
        """Newest first, without runs that were rolled back or will be. `run_id`: only the checkpoint of this
        run. `before`: only checkpoints that are older than that of this run; none if the thread has no such
        run. A read."""
        ...

    async def keep_latest_checkpoint(self, own: Ownership) -> None:
        """Remove all checkpoints of the thread but the newest, and the state with which the run of that one
        began. As the running holder; the runs keep their results. Raises StaleFence."""
        ...
