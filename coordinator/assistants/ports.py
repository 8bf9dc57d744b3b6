"""The ports of assistants and of their thread state.

They are separate, because a peer that adopts an incomplete rollback may not have the assistant registered:
reading a state needs the assistant, undoing a run does not.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, runtime_checkable

from coordinator.context import RunContext
from coordinator.schemas import (
    CheckpointRef,
    Description,
    Json,
    Outcome,
    RunRequest,
    StateStep,
    StateView,
    User,
)


@runtime_checkable
class Assistant(Protocol):
    """Executes runs. One object per name and process, shared by all runs; it keeps no state of a run and has
    no access to HTTP, rows or Redis."""

    @property
    def name(self) -> str: ...

    @property
    def features(self) -> frozenset[str]:
        """Supported stream modes, and any of "command", "interrupt", "checkpoint", "history", "state". With
        "state", large values are not copied into rows, but read through `state` (setting
        `state_copy_bytes`); `ctx.values` is None then."""
        ...

    @property
    def states(self) -> ThreadStates: ...

    def validate(self, request: RunRequest) -> None:
        """Called before admission; must be pure and fast. Raises InvalidArgument."""
        ...

    async def run(self, ctx: RunContext, request: RunRequest) -> Outcome:
        """Execute one attempt, in the run's own task, after `open` and `start`.

        `ctx.attempt` > 1: the worker of an earlier attempt has died or drained, and what that attempt wrote
        is still there. It is continued from there, without a repetition of finished work. When
        `ctx.drain_event` is set, it may stop at such a point with `Outcome(drained=True)`: then another
        worker continues the run.

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
        called while a run is active. The caller has checked that the user may read the thread.

        If the assistant has a storage of its own, it is also called when a run has ended without success:
        after `close`, before the thread is free. The values and interrupts become those of the thread, in
        lists and searches. Best effort: if it raises, or takes longer than `force_after` or
        `restore_timeout` (s), the thread keeps what it had."""
        ...

    def history(
        self,
        thread_id: str,
        *,
        limit: int,
        namespace: str = "",
        before: CheckpointRef | None = None,
        metadata: Mapping[str, Json] | None = None,
        user: User | None = None,
    ) -> AsyncIterator[StateView]:
        """Yield states, newest first. Read-only. `namespace`: the subgraph whose states are yielded, "" = the
        graph itself; an unknown one has no states. `metadata`: only states whose metadata contains it."""
        ...

    async def update_state(
        self, ctx: RunContext, values: Json, *, as_node: str | None = None, at: CheckpointRef | None = None
    ) -> CheckpointRef:
        """Update the state within an operation that holds the thread; `ctx.fence` guards the writes as for a
        run. Raises InvalidArgument, StaleFence."""
        ...

    async def update_states(
        self, ctx: RunContext, supersteps: Sequence[Sequence[StateStep]]
    ) -> CheckpointRef:
        """As `update_state`, of the current state: apply the supersteps in order, and the updates of one
        superstep as if its nodes had run in parallel. Returns the last checkpoint. Raises InvalidArgument,
        StaleFence; the updates before the refused one may have been written."""
        ...

    async def describe(self, user: User | None = None, *, xray: bool | int = False) -> Description:
        """Return schemas and graph for user interfaces. `xray`: draw subgraphs as well, all (True) or down to
        that depth."""
        ...

    async def subgraphs(
        self, namespace: str | None = None, *, recurse: bool = False, user: User | None = None
    ) -> Mapping[str, Description]:
        """Return the subgraphs by namespace: those of the graph itself, with `recurse` those of subgraphs as
        well, or only the one named `namespace`. Empty if there are none."""
        ...


@runtime_checkable
class Listed(Protocol):
    """What lists show of an assistant. Optional: an assistant without it is described with `describe`."""

    @property
    def graph_id(self) -> str | None:
        """The name of the graph that it runs, of which there may be several assistants; None = its own."""
        ...

    @property
    def text(self) -> str | None:
        """The description."""
        ...


@runtime_checkable
class Retried(Protocol):
    """An assistant whose runs are continued by other workers. Objects without the attribute have none."""

    @property
    def retries(self) -> int:
        """How many further attempts a run may have after deaths of its worker; 0 = it ends as an error. A
        hand-over by a draining worker is not counted."""
        ...


def retries_of(assistant: Assistant) -> int:
    """Of each admission: an `isinstance` with a protocol takes 12 us on Python 3.11."""
    retries: int = getattr(assistant, "retries", 0)
    return retries


@runtime_checkable
class PrunableStates(Protocol):
    """A storage of thread state that can remove former states. Optional."""

    async def keep_latest(self, thread_id: str, run_id: str, fence: int) -> None:
        """Remove all former states of the thread, which the operation `run_id` holds with `fence`, atomically
        with the check of the fence. The current state keeps its id. Idempotent. Raises StaleFence;
        InvalidArgument if the current state needs former ones, before anything is removed."""
        ...


@runtime_checkable
class ThreadStates(Protocol):
    """Storage of thread state; several assistants may share one. `kind` is stored in every rollback_ref, so
    that any worker can select the storage without the assistant."""

    @property
    def kind(self) -> str:
        """Names the database as well as the kind of storage: two storages of one process differ, and a
        storage has the same kind on every worker, for example `"graphs-sqlite:<hash of the path>"`."""
        ...

    def opened(self) -> AbstractAsyncContextManager[object]:
        """Entered once by the manager, in its event loop, before any other call; left after the last call of
        a run. Connections and tasks of the storage live within it. It may be left in another task."""
        ...

    async def open(self, thread_id: str, run_id: str, fence: int) -> Json:
        """Called when the run holds the thread, before `start` is committed. After it returns, the storage
        refuses writes with a lower fence. Returns the rollback_ref (a small dict with `kind`), which the run
        finds in `ctx.opened`. Idempotent. Raises StaleFence."""
        ...

    async def restore(self, thread_id: str, run_id: str, ref: Json, fence: int) -> Json:
        """Undo all writes of the run, atomically with the check of the fence. Idempotent, also if the run
        wrote nothing. Returns the restored values; None if only the assistant can read them: then the values
        stand that the coordinator has restored from its own store. Raises StaleFence. A call longer than the
        setting `restore_timeout` (s) is cancelled and counts as failed, as any other exception."""
        ...

    def close(self, thread_id: str, fence: int) -> None:
        """Reject all further writes with this fence in this process. In memory, does not block. Always called
        before finish, restore or a forced settle."""
        ...

    async def forget(self, run_ids: Sequence[str]) -> None:
        """Remove the undo data of runs that have settled; called by the worker that ended a run if its own
        worker is dead. Best effort: if it raises, or takes longer than the setting `restore_timeout` (s), the
        data remains until the thread is removed."""
        ...

    async def copy(self, source: str, target: str, run_id: str, fence: int) -> None:
        """Copy the state of `source` to `target`, which the operation `run_id` holds with `fence`."""
        ...

    async def delete(self, thread_id: str, run_id: str, fence: int) -> None:
        """Remove the state of a thread and its undo data, atomically with the check of the fence; from then
        on, refuse writes with a lower one. `run_id`: the operation that removed the thread, or the first run
        of a later thread with the same id; empty if the thread has expired. Idempotent, also for a thread
        without state. Raises StaleFence if the storage was opened with a greater fence: that state belongs to
        a later thread, and stays. A call longer than the setting `restore_timeout` (s) is cancelled. A call
        that fails is repeated, by any worker."""
        ...
