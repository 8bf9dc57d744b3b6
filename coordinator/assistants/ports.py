"""The two ports that everything which runs on a thread goes through.

Two, because a peer that adopts a half-done rollback may not have the assistant at hand, and because
reading a state needs the assistant while undoing a run does not.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

from coordinator.context import RunContext
from coordinator.schemas import CheckpointRef, Description, Json, Outcome, RunRequest, StateView, User


@runtime_checkable
class Assistant(Protocol):
    """Something that can run on a thread. One object per name and process, shared by all runs; it
    holds no run's state and knows nothing of HTTP, rows or Redis."""

    @property
    def name(self) -> str: ...

    @property
    def features(self) -> frozenset[str]:
        """Stream modes it really has, and "command", "interrupt", "checkpoint", "history", "attempts",
        "drain"."""
        ...

    @property
    def states(self) -> ThreadStates: ...

    def validate(self, request: RunRequest) -> None:
        """Before admission; pure and fast. Raises InvalidArgument."""
        ...

    async def run(self, ctx: RunContext, request: RunRequest) -> Outcome:
        """One attempt, in the run's own task, after `open` and `start`.

        Cancel arrives as CancelledError here (`ctx.abort` says why). When it returns or raises,
        nothing of it runs or writes any more, save what it gave to `ctx.track`. An exception means
        status error; StaleFence means drop it and write nothing.
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
        """What the thread holds now, or held at `at`; None where it has nothing, or nothing like that.
        Reads only; also while a run is active. Whether the user may see the thread is asked before."""
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
        """Newest first. Reads only. `metadata`: only those that have all of that in theirs."""
        ...

    async def update_state(
        self, ctx: RunContext, values: Json, *, as_node: str | None = None, at: CheckpointRef | None = None
    ) -> CheckpointRef:
        """Inside an operation that holds the thread: `ctx.fence` guards it as it guards a run. Raises
        InvalidArgument, StaleFence."""
        ...

    async def describe(self, user: User | None = None) -> Description:
        """For user interfaces."""
        ...


@runtime_checkable
class ThreadStates(Protocol):
    """Where threads keep their state; many assistants may share one. `kind` is stored in every
    rollback_ref, so that any worker finds the right one without the assistant."""

    @property
    def kind(self) -> str: ...

    async def open(self, thread_id: str, run_id: str, fence: int) -> Json:
        """When the run holds the thread, before `start` is committed. From its return on, writes
        with a lower fence are refused by the store that holds the state. Returns the rollback_ref
        (small, a dict with `kind`). Idempotent. Raises StaleFence."""
        ...

    async def restore(self, thread_id: str, run_id: str, ref: Json, fence: int) -> Json:
        """Undo all that the run wrote, in one transaction with the fence checked inside. Idempotent,
        also where the run wrote nothing. Returns the values now. Raises StaleFence. What takes longer
        than the setting `restore_timeout` is cancelled and counts as failed, as any other exception."""
        ...

    def close(self, thread_id: str, fence: int) -> None:
        """The run is over in this process: no write with this fence is accepted from here on. In
        memory, instant; always called before finish, restore or a forced settle."""
        ...

    async def forget(self, run_ids: Sequence[str]) -> None:
        """Settled for good: undo data may go. Best effort: what raises, or takes longer than the setting
        `restore_timeout`, leaves it behind."""
        ...

    async def copy(self, source: str, target: str, run_id: str, fence: int) -> None:
        """Give `target`, held by the operation `run_id` with `fence`, the state of `source`."""
        ...

    async def delete(self, thread_id: str, run_id: str, fence: int) -> None:
        """Remove the state of a thread that the operation `run_id` holds with `fence`."""
        ...
