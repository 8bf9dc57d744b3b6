"""The wake-up of a watcher, and the set of watchers of one thread. Shared by all notifiers."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable


class WakeupEvent:
    """Implements `Wakeup`: any number of calls of `set` before `wait` wake it once."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        self._event.set()

    def clear(self) -> None:
        self._event.clear()

    async def wait(self, timeout: float) -> bool:
        """Returns True if it was set within `timeout` (s), and clears it."""
        try:
            async with asyncio.timeout(timeout):
                await self._event.wait()
        except TimeoutError:
            # It may have been set in the same turn of the loop as the timeout.
            if not self._event.is_set():
                return False
        self._event.clear()
        return True


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
