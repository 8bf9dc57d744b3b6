"""Which run of this process may write the checkpoints of a thread."""

from __future__ import annotations

from typing import NamedTuple

from coordinator.context import current_run
from coordinator.errors import CoordinatorError, StaleFence
from coordinator.langgraph.savers.heads import Heads
from coordinator.langgraph.savers.records import StoredCheckpoint


class WriteOutsideRun(CoordinatorError):
    """Checkpoints were to be written by code that executes no run of the thread. Nothing was written."""

    def __init__(self, thread_id: str) -> None:
        self.thread_id = thread_id
        super().__init__(
            f"Only a run of thread {thread_id!r} can write its checkpoints: in its tasks, and in threads"
            " that it started with asyncio.to_thread. Threads that it started otherwise, and graphs that it"
            " calls with another thread_id, have no fence"
        )


class Writer(NamedTuple):
    """The run or operation that writes, and the fence that guards its writes."""

    thread_id: str
    run_id: str
    fence: int


class OpenFences:
    """The fence with which each thread is open in this process. In memory; the register in the database
    refuses the writes of other processes."""

    def __init__(self) -> None:
        self._open: dict[str, int] = {}
        self.heads = Heads()

    def open(self, thread_id: str, fence: int) -> None:
        """Raises StaleFence while a newer fence is open."""
        if self._open.get(thread_id, 0) > fence:
            raise StaleFence(thread_id, fence)
        self._open[thread_id] = fence

    def close(self, thread_id: str, fence: int) -> None:
        """Idempotent. A newer fence stays open."""
        self.heads.drop(thread_id, fence)
        if self._open.get(thread_id) == fence:
            del self._open[thread_id]

    def check(self, thread_id: str, fence: int) -> None:
        """May be called from any thread. Raises StaleFence if the fence is not open."""
        if self._open.get(thread_id) != fence:
            raise StaleFence(thread_id, fence)

    def head(self, thread_id: str) -> tuple[StoredCheckpoint | None] | None:
        """As `Heads.take`, if the caller is executed by the run that has opened the thread."""
        context = current_run.get()
        if context is None or context.run.thread_id != thread_id:
            return None
        return self.heads.take(thread_id, context.fence)

    def writer(self, thread_id: str) -> Writer:
        """The run that executes the code that calls this; its write is a sign of life. Raises WriteOutsideRun
        if there is none, or one of another thread; StaleFence if it is not open."""
        context = current_run.get()
        if context is None or context.run.thread_id != thread_id:
            raise WriteOutsideRun(thread_id)
        self.check(thread_id, context.fence)
        context.touch()
        return Writer(thread_id, context.run.run_id, context.fence)
