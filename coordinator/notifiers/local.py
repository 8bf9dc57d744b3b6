"""The notifier within one process.

Workers of several processes that share only a store do not hear each other through it: their tick finds what
they miss.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from coordinator.notifier import Connectivity, Signal, Wakeup
from coordinator.notifiers.bell import Bell, Bells
from coordinator.notifiers.callbacks import Callbacks


class LocalHub:
    """Carries signals among the notifiers that were given it. They all live on one event loop."""

    def __init__(self) -> None:
        self._workers: dict[int, Callbacks] = {}
        self._watchers: dict[str, Bells] = {}

    def join(self, epoch: int, callbacks: Callbacks) -> None:
        self._workers[epoch] = callbacks
        asyncio.get_running_loop().call_soon(callbacks.resync)

    def leave(self, epoch: int) -> None:
        self._workers.pop(epoch, None)

    def tell_worker(self, epoch: int, signal: Signal) -> None:
        """Delivered in a later turn of the loop, as by any transport: never inside the caller's call."""
        if epoch in self._workers:
            asyncio.get_running_loop().call_soon(self._deliver, epoch, signal)

    def tell_thread(self, thread_id: str) -> None:
        if (bells := self._watchers.get(thread_id)) is not None:
            bells.ring()

    def tell_followers(self, thread_id: str, run_id: str, event_id: tuple[int, int]) -> None:
        if (bells := self._watchers.get(thread_id)) is not None:
            bells.hint(run_id, event_id)

    def listen(self, thread_id: str, bell: Bell, log: str | None) -> None:
        self._watchers.setdefault(thread_id, Bells()).add(bell, log)

    def unlisten(self, thread_id: str, bell: Bell) -> None:
        bells = self._watchers[thread_id]
        bells.discard(bell)
        if not bells:
            del self._watchers[thread_id]

    def _deliver(self, epoch: int, signal: Signal) -> None:
        callbacks = self._workers.get(epoch)
        if callbacks is not None:
            callbacks.signal(signal)


class LocalNotifier:
    """Alone with its own hub, or together with all that share one. Its connectivity is always `off`."""

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
        self._hub.tell_worker(epoch, signal)

    def notify_thread(self, thread_id: str, signal: Signal) -> None:
        self._hub.tell_thread(thread_id)

    def hint(self, thread_id: str, run_id: str, event_id: tuple[int, int]) -> None:
        self._hub.tell_followers(thread_id, run_id, event_id)

    @property
    def announces(self) -> bool:
        return False

    def announce(self, thread_id: str, run_id: str, event_id: tuple[int, int]) -> None:
        """Who shares the hub was told by `hint`."""

    @asynccontextmanager
    async def watch(self, thread_id: str, log: str | None = None) -> AsyncGenerator[Wakeup]:
        bell = Bell()
        self._hub.listen(thread_id, bell, log)
        try:
            yield bell
        finally:
            self._hub.unlisten(thread_id, bell)

    async def aclose(self) -> None:
        self._leave()

    def _leave(self) -> None:
        if self._epoch is not None:
            self._hub.leave(self._epoch)
            self._epoch = None
