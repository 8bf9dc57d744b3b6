"""One cancel of one task, delivered again where the task's code has swallowed it.

`Task.cancel()` is a request that code may lose: a broad `except`, and in Python 3.11 and 3.12 also
`asyncio.TaskGroup` (while it aborts) and `wait_for` (when the answer comes at the same moment). A second
cancel, on the other hand, cuts short what the first one made the code do: close connections, await threads
that still write. `Task.cancelling()` does not tell the two apart: scopes and task groups change it as well.

What does is the CancelledError itself. It carries a message of ours, and lives for as long as anything
handles it: an `except` or `finally` block, a task group that waits for its children, a child that is
awaited. While it lives the task is unwinding and is left alone. Once it is gone and the task goes on, it
was swallowed.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from typing import Any

from coordinator.schemas import Abort

logger = logging.getLogger(__name__)

FIRST_PAUSE = 0.25
"""s, at most a share of `force_after`: a worker that forces early looks early. Each further pause is twice as
long, so code that cleans up after it has swallowed a cancel gets more and more time for that."""
FIRST_SHARE, LONGEST_SHARE = 1 / 16, 1 / 10
"""Of `force_after`. So there are a dozen deliveries at most: bad luck may come twice."""


class CancelSentinel:
    """The message of our own `task.cancel()`, so that it is told apart from an outer cancellation."""

    def __init__(self, abort: Abort) -> None:
        self.abort = abort

    def __str__(self) -> str:
        return f"run cancelled ({self.abort.cause}{': ' + self.abort.reason if self.abort.reason else ''})"


class TaskCancel:
    """Delivers at once, and again after each pause for which the task goes on with nothing of ours in its
    hands; never later than `force_after` s.

    `foreign`: the task is a caller's own. Whoever made it may have cancelled it before, and its clean-up is
    not to be cut short by us: as long as that cancellation is counted, ours waits, for half of `force_after`.
    """

    def __init__(self, task: asyncio.Task[Any], abort: Abort, *, force_after: float, foreign: bool) -> None:
        self.task = task
        self._abort, self._force_after, self._foreign = abort, force_after, foreign
        self._loop = task.get_loop()
        self._begun = self._loop.time()
        self._pause = min(FIRST_PAUSE, force_after * FIRST_SHARE)
        self._sentinel: weakref.ref[CancelSentinel] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._turns, self._stopped = 0, False
        self._deliver()
        self._wait()

    def stop(self) -> None:
        """Deliver no more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _deliver(self) -> None:
        if self._foreign and self.task.cancelling() and self._elapsed < self._force_after / 2:
            return
        self._foreign = False
        sentinel = CancelSentinel(self._abort)
        self._sentinel = weakref.ref(sentinel)
        self.task.cancel(sentinel)

    def _wait(self) -> None:
        if self._elapsed + self._pause < self._force_after:
            self._timer = self._loop.call_later(self._pause, self._check)
            self._pause = min(self._pause * 2, self._force_after * LONGEST_SHARE)

    def _check(self) -> None:
        self._timer = None
        if self.task.done():
            return
        if self._sentinel is None:
            self._deliver()
        elif self._swallowed():
            logger.info("A task has swallowed its cancel (%s), which is delivered again", self._abort.cause)
            self._turns += 1
            self._again(self._turns)
        self._wait()

    def _again(self, turns: int) -> None:
        """Deliver after so many turns of the loop: each time another number, for where the code's own timers
        are due together with ours, the same moment may be a bad one again and again."""
        if self.task.done() or self._stopped:
            return
        if turns:
            self._loop.call_soon(self._again, turns - 1)
        else:
            self._deliver()

    def _swallowed(self) -> bool:
        """Has the CancelledError come to the task's code, and is it gone?"""
        # Where the task was about to take a step when it was cancelled, it keeps the message for that step,
        # which is over by now, and for ever after.
        if self._sentinel is not None and getattr(self.task, "_cancel_message", None) is self._sentinel():
            setattr(self.task, "_cancel_message", None)  # noqa: B010 – a private name
        return self._sentinel is not None and self._sentinel() is None

    @property
    def _elapsed(self) -> float:
        return self._loop.time() - self._begun
