"""The notifier within one process.

It reaches no other process: workers that share only a store detect changes of their peers by their ticks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from coordinator.notifier import Connectivity, Signal, Wakeup
from coordinator.notifiers.callbacks import Callbacks
from coordinator.notifiers.wakeups import ThreadWatchers, WakeupEvent


class LocalHub:
    """Delivers signals among the notifiers that share it. All of them belong to one event loop."""

    def __init__(self) -> None:
        self._workers: dict[int, Callbacks] = {}
        self._threads: dict[str, ThreadWatchers] = {}

    def join(self, epoch: int, callbacks: Callbacks) -> None:
        self._workers[epoch] = callbacks
        asyncio.get_running_loop().call_soon(callbacks.resync)

    def leave(self, epoch: int) -> None:
        self._workers.pop(epoch, None)

    def notify_worker(self, epoch: int, signal: Signal) -> None:
        """Delivers in a later turn of the loop, as any transport does, never within this call."""
        if epoch in self._workers:
            asyncio.get_running_loop().call_soon(self._deliver, epoch, signal)

    def notify_thread(self, thread_id: str) -> None:
        if (watchers := self._threads.get(thread_id)) is not None:
            watchers.wake_all()

    def notify_followers(self, thread_id: str, run_id: str, event_id: tuple[int, int]) -> None:
        if (watchers := self._threads.get(thread_id)) is not None:
            watchers.hint(run_id, event_id)

    def subscribe(self, thread_id: str, wakeup: WakeupEvent, log: str | None) -> None:
        self._threads.setdefault(thread_id, ThreadWatchers()).add(wakeup, log)

    def unsubscribe(self, thread_id: str, wakeup: WakeupEvent) -> None:
        watchers = self._threads[thread_id]
        watchers.discard(wakeup)
        if not watchers:
            del self._threads[thread_id]

    def _deliver(self, epoch: int, signal: Signal) -> None:
        callbacks = self._workers.get(epoch)
        if callbacks is not None:
            callbacks.signal(signal)


class LocalNotifier:
    """Reaches all notifiers that share `hub` (default: its own hub). Its connectivity is always `off`."""

    def __init__(self, hub: LocalHub | None = None) -> None:
        self._hub = hub if hub is not None else LocalHub()
        self._epoch: int | None = None

    @property
    def connectivity(self) -> Connectivity:
        return Connectivity.off

    async def start(
        self,
        epoch: int,
        on_signal: Callable[[Signal], None],
        on_resync: Callable[[], None],
        on_connectivity: Callable[[Connectivity], None],
    ) -> None:
        self._leave()
        self._epoch = epoch
        self._hub.join(epoch, Callbacks(on_signal, on_resync, on_connectivity))

    def notify_worker(self, epoch: int, signal: Signal) -> None:
        self._hub.notify_worker(epoch, signal)

    def notify_thread(self, thread_id: str, signal: Signal) -> None:
        self._hub.notify_thread(thread_id)

    def hint(self, thread_id: str, run_id: str, event_id: tuple[int, int]) -> None:
        self._hub.notify_followers(thread_id, run_id, event_id)

    @property
    def announces(self) -> bool:
        return False

    def announce(self, thread_id: str, run_id: str, event_id: tuple[int, int]) -> None:
        """No effect: `hint` has notified all notifiers that share the hub."""

    @asynccontextmanager
    async def watch(self, thread_id: str, log: str | None = None) -> AsyncGenerator[Wakeup]:
        wakeup = WakeupEvent()
        self._hub.subscribe(thread_id, wakeup, log)
        try:
            yield wakeup
        finally:
            self._hub.unsubscribe(thread_id, wakeup)
            wakeup.close()

    async def aclose(self) -> None:
        self._leave()

    def _leave(self) -> None:
        if self._epoch is not None:
            self._hub.leave(self._epoch)
            self._epoch = None
