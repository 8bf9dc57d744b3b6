"""The ports of assistants and of their thread state.

They are separate, because a peer that adopts an incomplete rollback may not have the assistant registered:
reading a state needs the assistant, undoing a run does not.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

from coordinator.context import RunContext
from coordinator.schemas import CheckpointRef, Description, Json, Outcome, RunRequest, StateView, User


@runtime_checkable
class Assistant(Protocol):
    """Executes runs. One object per name and process, shared by all runs; it keeps no state of a run and has
    no access to HTTP, rows or Redis."""

    @property
    def name(self) -> str: ...

    @property
    def features(self) -> frozenset[str]:
        """Supported stream modes, and any of "command", "interrupt", "checkpoint", "history", "attempts",
        "drain"."""
        ...

    @property
    def states(self) -> ThreadStates: ...

    def validate(self, request: RunRequest) -> None:
        """Called before admission; must be pure and fast. Raises InvalidArgument."""
        ...

    async def run(self, ctx: RunContext, request: RunRequest) -> Outcome:
        """Execute one attempt, in the run's own task, after `open` and `start`.

        A cancel is raised here as CancelledError (`ctx.abort` holds the reason). After it returns or raises,
        it must not run or write anything, except work registered with `ctx.track`. An exception ends the
        run with status error; StaleFence abandons it without a write.
        """
        ...

    async def state(
        self,
        thread_id: str,
        at: CheckpointRef | None = None,
        *,
        subgraphs: bool = False,
        user: User | None = None,
    ) -> StateView | None:
        """Return the current state, or the state at checkpoint `at`; None if there is none. Read-only; may be
        called while a run is active. The caller has checked that the user may read the thread."""
        ...

    def history(
        self,
        thread_id: str,
        *,
        limit: int,
        before: CheckpointRef | None = None,
        metadata: Mapping[str, Json] | None = None,
        user: User | None = None,
    ) -> AsyncIterator[StateView]:
        """Yield states, newest first. Read-only. `metadata`: only states whose metadata contains it."""
        ...

    async def update_state(
        self, ctx: RunContext, values: Json, *, as_node: str | None = None, at: CheckpointRef | None = None
    ) -> CheckpointRef:
        """Update the state within an operation that holds the thread; `ctx.fence` guards the writes as for a
        run. Raises InvalidArgument, StaleFence."""
        ...

    async def describe(self, user: User | None = None) -> Description:
        """Return schemas and graph for user interfaces."""
        ...


@runtime_checkable
class ThreadStates(Protocol):
    """Storage of thread state; several assistants may share one. `kind` is stored in every rollback_ref, so
    that any worker can select the storage without the assistant."""

    @property
    def kind(self) -> str: ...

    async def open(self, thread_id: str, run_id: str, fence: int) -> Json:
        """Called when the run holds the thread, before `start` is committed. After it returns, the storage
        refuses writes with a lower fence. Returns the rollback_ref (a small dict with `kind`). Idempotent.
        Raises StaleFence."""
        ...

    async def restore(self, thread_id: str, run_id: str, ref: Json, fence: int) -> Json:
        """Undo all writes of the run, atomically with the check of the fence. Idempotent, also if the run
        wrote nothing. Returns the restored values. Raises StaleFence. A call longer than the setting
        `restore_timeout` (s) is cancelled and counts as failed, as any other exception."""
        ...

    def close(self, thread_id: str, fence: int) -> None:
        """Reject all further writes with this fence in this process. In memory, does not block. Always called
        before finish, restore or a forced settle."""
        ...

    async def forget(self, run_ids: Sequence[str]) -> None:
        """Remove the undo data of runs that have settled. Best effort: if it raises, or takes longer than the
        setting `restore_timeout` (s), the data remains."""
        ...

    async def copy(self, source: str, target: str, run_id: str, fence: int) -> None:
        """Copy the state of `source` to `target`, which the operation `run_id` holds with `fence`."""
        ...

    async def delete(self, thread_id: str, run_id: str, fence: int) -> None:
        """Remove the state of a thread that the operation `run_id` holds with `fence`."""
        ...
