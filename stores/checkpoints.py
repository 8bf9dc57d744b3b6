"""The port that reads which states a thread has had: one for each run or operation that wrote its values.

A checkpoint is no row of its own. It is in the row of the run that left it, and goes with that: when the run
is deleted or pruned, or its thread is.

Errors of every call: StoreUnavailable, StoreRefused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from stores.rows import Json
from stores.states import RunStatus


@dataclass(frozen=True, slots=True)
class CheckpointRow:
    """The state that a run or an operation has left on its thread; as long as it has not settled, what it has
    saved so far."""

    run_id: str
    kind: str
    assistant_id: str | None
    status: RunStatus
    paused: bool
    settled: bool
    interrupts: Json
    metadata: dict[str, Any]
    kwargs: dict[str, Any]
    fence: int
    values: Json
    previous: str | None
    """The run that left the state before it, in the order in which they held the thread."""
    written_at: int
    current: bool
    """These are the values of the thread at this moment."""


@runtime_checkable
class CheckpointStore(Protocol):
    async def checkpoints(
        self, thread_id: str, *, run_id: str | None = None, before: str | None = None, limit: int = 10
    ) -> list[CheckpointRow]:
        """Newest first, without those of runs that are or will be rolled back. `run_id`: that of this run.
        `before`: those that are older than that of this run, none where the thread has no such run. Reads."""
        ...
