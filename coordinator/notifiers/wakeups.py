"""The wake-up of a watcher, and the set of watchers of one thread. Shared by all notifiers."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Hashable

_RESOLUTION = 0.001  # s; of the clock of event loops: a timer may fire that much early


class WakeupEvent:
    """Implements `Wakeup`: any number of calls of `set` before `wait` wake it once.

    Its timer stays armed when `wait` returns before the timeout, and the next call uses it if its own timeout
    is later, which is the case for nearly all calls. So a wait costs no timer. `close` ends it.
    """

    __slots__ = ("_deadline", "_is_set", "_timer", "_waiter", "_when")

    def __init__(self) -> None:
        self._is_set = False
        self._waiter: asyncio.Future[None] | None = None
        self._deadline = self._when = math.inf  # of the waiter, and of the timer
        self._timer: asyncio.TimerHandle | None = None

    def set(self) -> None:
        self._is_set = True
        self._release()

    def clear(self) -> None:
        self._is_set = False

    def close(self) -> None:
        """Disarms the timer. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def wait(self, timeout: float) -> bool:
        """Returns True if it was set within `timeout` (s), and clears it."""
        if not self._is_set and timeout > 0:
            loop = asyncio.get_running_loop()
            self._deadline = loop.time() + timeout
            if self._timer is None or self._deadline < self._when:
                self._arm(loop)
            self._waiter = loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        was_set, self._is_set = self._is_set, False
        return was_set

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        self.close()
        if self._deadline < math.inf:
            self._when = self._deadline
            self._timer = loop.call_at(self._when, self._expire, loop)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        if self._waiter is None:
            return
        if loop.time() + _RESOLUTION < self._deadline:
            self._arm(loop)
        else:
            self._release()

    def _release(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class ThreadWatchers:
    """The watchers of one thread. A watcher that also follows a run's log is woken by events of that run."""

    def __init__(self) -> None:
        self._watchers: dict[WakeupEvent, Hashable] = {}
        self._newest: dict[Hashable, tuple[int, int]] = {}

    def __bool__(self) -> bool:
        return bool(self._watchers)

    def add(self, watcher: WakeupEvent, log: Hashable = None) -> None:
        self._watchers[watcher] = log

    def discard(self, watcher: WakeupEvent) -> None:
        log = self._watchers.pop(watcher, None)
        if log is not None and log not in self._watchers.values():
            self._newest.pop(log, None)

    def wake_all(self) -> None:
        for watcher in self._watchers:
            watcher.set()

    def hint(self, log: Hashable, event_id: tuple[int, int]) -> None:
        """Wakes the followers of a log that has events up to `event_id`. A hint whose sender is in this
        process arrives twice (directly, and through the transport); the second one wakes no follower."""
        if event_id > self._newest.get(log, (-1, -1)):
            followers = [watcher for watcher, followed in self._watchers.items() if followed == log]
            if followers:
                self._newest[log] = event_id
            for watcher in followers:
                watcher.set()
