"""What executes of a run in this process: its task, what it tracks, and the time that these have to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from coordinator.clock import Clocks
from coordinator.runs.task_cancel import TaskCancel
from coordinator.schemas import Abort


class Force:
    """The time in which what was told to stop has to stop. `over` is done if it passed in vain."""

    __slots__ = ("over", "timer")

    def __init__(self) -> None:
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.timer: asyncio.TimerHandle | None = None

    def stop(self) -> None:
        timer, self.timer = self.timer, None
        if timer is not None:
            timer.cancel()


class Work:
    """The code of a run. Its task is in the record, where a caller may put one of its own.

    `launched`: the task that this worker has made; `supervised`: the one whose end settles the run.
    `warned`: why it was told to stop although nothing is decided (shutdown). `active_at`: the last sign of
    life, on the monotonic clock (s), 0 = none. `delivered_at`, `stopped_at`: of the wall clock (us).
    """

    __slots__ = (
        "active_at",
        "cancel",
        "clocks",
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
        self.launched: asyncio.Task[Any] | None = None
        self.supervised: asyncio.Task[Any] | None = None
        self.tracked: set[asyncio.Future[Any]] | None = None
        self.cancel: TaskCancel | None = None
        self.force: Force | None = None
        self.warned: Abort | None = None
        self.delivered_at: int | None = None
        self.stopped_at: int | None = None

    @property
    def forced(self) -> bool:
        """It did not stop in time, and is not waited for."""
        return self.force is not None and self.force.over.done()

    @property
    def returned(self) -> bool:
        """The task that this worker has made came to an end of its own."""
        task = self.launched
        return task is not None and task.done() and not task.cancelled()

    def tracks(self) -> set[asyncio.Future[Any]]:
        """The set of what keeps the thread held after the task is over."""
        if self.tracked is None:
            self.tracked = set()
        return self.tracked

    def cancel_task(self, task: asyncio.Task[Any] | None, abort: Abort) -> None:
        """Deliver a cancel to the task, once for each: again only where that is swallowed."""
        if task is None or task.done() or (self.cancel is not None and self.cancel.task is task):
            return
        foreign = task is not self.launched
        self.cancel = TaskCancel(task, abort, force_after=self.force_after, foreign=foreign)

    def arm(self, seconds: float, callback: Callable[[], object]) -> None:
        """Call back in so many seconds, unless that is under way or they have passed before."""
        force = self.force = self.force or Force()
        if force.timer is None and not force.over.done():
            force.timer = asyncio.get_running_loop().call_later(seconds, callback)

    def disarm(self) -> None:
        if self.force is not None:
            self.force.stop()

    def give_up(self) -> None:
        """The time to stop is over. It is cancelled no more."""
        force = self.force = self.force or Force()
        force.over.set_result(None)
        if self.cancel is not None:
            self.cancel.stop()

    async def tracked_over(self) -> None:
        """Return when one of the tracked futures is done, or the time to stop is over."""
        force = () if self.force is None else (self.force.over,)
        await asyncio.wait((*self.tracks(), *force), return_when=asyncio.FIRST_COMPLETED)

    def settle(self) -> None:
        """Its run is over: nobody waits for it."""
        if (force := self.force) is not None:
            force.stop()
            self.force = force if force.over.done() else None
        if not self.tracked:
            self.tracked = None
