"""The work of a run in this process: its task, its tracked work, and the time limit for them to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from coordinator.clock import Clocks
from coordinator.runs.task_cancel import TaskCancel
from coordinator.schemas import Abort
from stores.tasks import AnyFuture

PARTS = 8
"""The time limit consists of this number of timers, one after another. While the loop is blocked, or the
process is stopped, at most one of them passes."""


class Force:
    """The time limit for cancelled work to stop. `over` is done if it expired. `since`: when the work was to
    stop (s, clock of the loop)."""

    __slots__ = ("over", "since", "timer")

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.over: asyncio.Future[None] = loop.create_future()
        self.since = loop.time()
        self.timer: asyncio.TimerHandle | None = None

    def start(self, seconds: float, callback: Callable[[], object]) -> None:
        """Calls `callback` after `seconds`. Time in which the loop could not run does not count, because the
        work has no chance to stop in it."""
        self._wait(PARTS, seconds / PARTS, callback)

    def _wait(self, parts: int, seconds: float, callback: Callable[[], object]) -> None:
        if parts:
            loop = asyncio.get_running_loop()
            self.timer = loop.call_later(seconds, self._wait, parts - 1, seconds, callback)
        else:
            callback()

    def stop(self) -> None:
        timer, self.timer = self.timer, None
        if timer is not None:
            timer.cancel()


class Continuation:
    """How other workers may continue a run. `retries`: further attempts that it may have after deaths of its
    worker. `begins`: its task has stopped undecided, so that another worker continues it; `written`: its row
    shows that."""

    __slots__ = ("begins", "retries", "written")

    def __init__(self, retries: int) -> None:
        self.retries = retries
        self.begins = self.written = False


class Work:
    """The work of a run. Its task is in the record, where a caller may set a task of its own.

    `launched`: the task that this worker created. `supervised`: the task whose end settles the run.
    `warned`: the abort with which the task was cancelled without a decision (drain). `active_at`: the last
    sign of life (s, monotonic clock), 0 = none. `delivered_at`, `stopped_at`: wall clock (us).
    """

    __slots__ = (
        "active_at",
        "cancel",
        "clocks",
        "continuation",
        "delivered_at",
        "force",
        "force_after",
        "launched",
        "stopped_at",
        "supervised",
        "tracked",
        "warned",
    )

    def __init__(self, clocks: Clocks, force_after: float) -> None:
        self.clocks, self.force_after = clocks, force_after
        self.active_at = 0.0
        self.launched: asyncio.Task[object] | None = None
        self.supervised: asyncio.Task[object] | None = None
        self.tracked: set[AnyFuture] | None = None
        self.cancel: TaskCancel | None = None
        self.force: Force | None = None
        self.warned: Abort | None = None
        self.continuation: Continuation | None = None
        """None = no other worker may execute the run."""
        self.delivered_at: int | None = None
        self.stopped_at: int | None = None

    @property
    def forced(self) -> bool:
        """The work did not stop in time and is not waited for any more."""
        return self.force is not None and self.force.over.done()

    @property
    def returned(self) -> bool:
        """The task that this worker created has ended without being cancelled."""
        task = self.launched
        return task is not None and task.done() and not task.cancelled()

    def tracks(self) -> set[AnyFuture]:
        """Returns the set of futures that keep the thread held after the task has ended."""
        if self.tracked is None:
            self.tracked = set()
        return self.tracked

    def cancel_task(self, task: asyncio.Task[object] | None, abort: Abort) -> None:
        """Delivers a cancel to the task, once per task; again only if the task swallowed it."""
        if task is None or task.done() or (self.cancel is not None and self.cancel.task is task):
            return
        foreign = task is not self.launched
        self.cancel = TaskCancel(task, abort, force_after=self.force_after, foreign=foreign)

    def arm(self, seconds: float, callback: Callable[[], object]) -> None:
        """Starts the time limit, unless it was started before. `callback` is called when it expires."""
        force = self.force = self.force or Force()
        if force.timer is None and not force.over.done():
            force.start(seconds, callback)

    def disarm(self) -> None:
        if self.force is not None:
            self.force.stop()

    def give_up(self) -> None:
        """Ends the time limit as expired, and the cancels of the task."""
        force = self.force = self.force or Force()
        force.over.set_result(None)
        if self.cancel is not None:
            self.cancel.stop()

    async def tracked_over(self) -> None:
        """Returns when one of the tracked futures is done or the time limit has expired."""
        force = () if self.force is None else (self.force.over,)
        await asyncio.wait((*self.tracks(), *force), return_when=asyncio.FIRST_COMPLETED)

    def settle(self) -> None:
        """Releases what only an unsettled run needs."""
        if (force := self.force) is not None:
            force.stop()
            self.force = force if force.over.done() else None
        if not self.tracked:
            self.tracked = None
