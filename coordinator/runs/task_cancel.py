"""One cancel of one task, delivered again if the task's code has swallowed it.

`Task.cancel()` is a request that code may lose: in a broad `except`, and in Python 3.11 and 3.12 also in
`asyncio.TaskGroup` (while it aborts) and `wait_for` (if the result comes at the same moment). A second
cancel, on the other hand, interrupts the clean-up after the first one: closing connections, awaiting threads
that still write. `Task.cancelling()` does not distinguish the two cases: scopes and task groups change it.

The CancelledError itself does. It carries a message of this module, and stays alive while anything handles
it: an `except` or `finally` block, a task group that waits for its children, an awaited child. While it is
alive, the task is unwinding and is not cancelled again. If it was garbage collected and the task still runs,
it was swallowed.
"""

from __future__ import annotations

import asyncio
import logging
import weakref

from coordinator.schemas import Abort

logger = logging.getLogger(__name__)

FIRST_PAUSE = 0.25
"""Seconds; limited by FIRST_SHARE. Each further pause is twice as long, so that code which cleans up after it
has swallowed a cancel gets more and more time."""
FIRST_SHARE, LONGEST_SHARE = 1 / 16, 1 / 10
"""Limits of the pauses, as shares of `force_after`. They allow about a dozen deliveries."""


class CancelSentinel:
    """The message of a `task.cancel()` of this module, which distinguishes it from other cancellations."""

    def __init__(self, abort: Abort) -> None:
        self.abort = abort

    def __str__(self) -> str:
        return f"run cancelled ({self.abort.cause}{': ' + self.abort.reason if self.abort.reason else ''})"


class TaskCancel:
    """Delivers at once, and again after each pause in which the task has swallowed the cancel, until the
    pauses come to `force_after` (s). Time in which the loop is blocked does not count: the task has no chance
    to stop in it.

    `foreign`: the task was created by a caller, which may have cancelled it before. So as not to interrupt
    that clean-up, the delivery waits while the other cancellation is counted, for half of `force_after`.
    """

    def __init__(
        self, task: asyncio.Task[object], abort: Abort, *, force_after: float, foreign: bool
    ) -> None:
        self.task = task
        self._abort, self._force_after, self._foreign = abort, force_after, foreign
        self._loop = task.get_loop()
        self._waited = 0.0
        self._pause = min(FIRST_PAUSE, force_after * FIRST_SHARE)
        self._sentinel: weakref.ref[CancelSentinel] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._turns, self._stopped = 0, False
        self._deliver()
        self._wait()

    def stop(self) -> None:
        """Ends the deliveries."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _deliver(self) -> None:
        if self._foreign and self.task.cancelling() and self._waited < self._force_after / 2:
            return
        self._foreign = False
        sentinel = CancelSentinel(self._abort)
        self._sentinel = weakref.ref(sentinel)
        self.task.cancel(sentinel)

    def _wait(self) -> None:
        if self._waited + self._pause < self._force_after:
            self._timer = self._loop.call_later(self._pause, self._check)
            self._waited += self._pause
            self._pause = min(self._pause * 2, self._force_after * LONGEST_SHARE)

    def _check(self) -> None:
        self._timer = None
        if self.task.done():
            return
        if self._sentinel is None:
            self._deliver()
        elif self._swallowed():
            logger.info(
                "The code of a task has swallowed its cancel (%s); it is delivered again", self._abort.cause
            )
            self._turns += 1
            self._again(self._turns)
        self._wait()

    def _again(self, turns: int) -> None:
        """Delivers after `turns` turns of the loop. The number differs each time: if timers of the code are
        due together with those of this object, the same moment may be lost again and again."""
        if self.task.done() or self._stopped:
            return
        if turns:
            self._loop.call_soon(self._again, turns - 1)
        else:
            self._deliver()

    def _swallowed(self) -> bool:
        """Whether the CancelledError reached the task's code and was garbage collected."""
        # If the task was about to take a step when it was cancelled, it keeps the message for ever, although
        # that step has ended by now.
        if self._sentinel is not None and getattr(self.task, "_cancel_message", None) is self._sentinel():
            setattr(self.task, "_cancel_message", None)  # noqa: B010 – a private name
        return self._sentinel is not None and self._sentinel() is None
