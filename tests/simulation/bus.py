"""The transport of hints and the thread slots that it keeps: both lossy, late, repeated, sometimes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from coordinator.lock import SlotAnswer, SlotState
from coordinator.notifier import Connectivity, Signal, Wakeup
from coordinator.notifiers.wakeups import WakeupEvent

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.world import World


class Bus:
    """Who listens to what. Outside every process, as a Redis is."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.listeners: dict[int, SimNotifier] = {}
        self.watchers: dict[str, dict[int, tuple[SimNotifier, WakeupEvent]]] = {}
        self.slots: dict[str, tuple[str, int]] = {}

    def carry(self, sender: Process, receiver: Process, what: str, deliver: Callable[[], None]) -> None:
        """Within a process nothing is lost; between them, whatever the seed allows."""
        world, faults = self._world, self._world.faults
        if sender is receiver:
            receiver.loop.call_soon(deliver)
            return
        chance = world.chance
        broken = not (sender.linked and receiver.linked)
        if broken or chance.random() < faults.lose:
            world.meet("Bus", what, "sent", "lost")
            return
        times = 2 if chance.random() < faults.repeat else 1
        for _ in range(times):
            late = chance.random() < faults.late
            delay = chance.uniform(0.05, 3.0) if late else chance.uniform(0.0002, 0.005)
            world.meet("Bus", what, "sent", "late" if late else "delivered")
            world.schedule.after(delay, receiver.loop.post, deliver)
        if times > 1:
            world.meet("Bus", what, "sent", "repeated")

    def later(self, sender: Process, what: str, act: Callable[[], None]) -> None:
        """A script whose answer no caller awaits."""
        world = self._world
        if not sender.linked or world.chance.random() < world.faults.lose:
            world.meet("Slots", what, "sent", "lost")
            return
        late = world.chance.random() < world.faults.late
        delay = world.chance.uniform(0.05, 3.0) if late else world.chance.uniform(0.0002, 0.005)
        world.meet("Slots", what, "sent", "late" if late else "delivered")
        world.schedule.after(delay, act)

    def flush(self) -> None:
        self.slots.clear()


class SimNotifier:
    """Implements `Notifier` for one process."""

    def __init__(self, process: Process, bus: Bus) -> None:
        self.process, self._bus = process, bus
        self._epoch: int | None = None
        self.on_signal: Callable[[Signal], None] | None = None
        self._on_resync: Callable[[], None] | None = None
        self._on_connectivity: Callable[[Connectivity], None] | None = None

    @property
    def connectivity(self) -> Connectivity:
        if not self.process.world.faults.connected:
            return Connectivity.off
        return Connectivity.connected if self.process.linked else Connectivity.down

    async def start(
        self,
        epoch: int,
        on_signal: Callable[[Signal], None],
        on_resync: Callable[[], None],
        on_connectivity: Callable[[Connectivity], None],
    ) -> None:
        await self.aclose()
        self._epoch = epoch
        self.on_signal, self._on_resync, self._on_connectivity = on_signal, on_resync, on_connectivity
        self._bus.listeners[epoch] = self
        self.process.loop.call_soon(on_resync)

    def link_changed(self) -> None:
        """The connection went away, or is back: then everything has to be looked at."""
        if self._on_connectivity is not None:
            self._on_connectivity(self.connectivity)
        if self.process.linked and self._on_resync is not None:
            self._on_resync()
        for watchers in self._bus.watchers.values():
            for notifier, wakeup in watchers.values():
                if notifier is self:
                    wakeup.set()

    def notify_worker(self, epoch: int, signal: Signal) -> None:
        target = self._bus.listeners.get(epoch)
        if self.process.loop.dead or target is None:
            return

        def deliver() -> None:
            if target.on_signal is not None and self._bus.listeners.get(epoch) is target:
                target.on_signal(signal)

        self._bus.carry(self.process, target.process, signal.kind, deliver)

    def notify_thread(self, thread_id: str, signal: Signal) -> None:
        if self.process.loop.dead:
            return
        for notifier, wakeup in self._bus.watchers.get(thread_id, {}).values():
            self._bus.carry(self.process, notifier.process, "settled", wakeup.set)

    def hint(self, thread_id: str, run_id: str, event_id: tuple[int, int]) -> None:
        """Does nothing: `watch` below wakes its caller for every signal, and for no event."""

    @property
    def announces(self) -> bool:
        return False

    def announce(self, thread_id: str, run_id: str, event_id: tuple[int, int]) -> None:
        """Does nothing: followers of a log poll."""

    @asynccontextmanager
    async def watch(self, thread_id: str, log: str | None = None) -> AsyncGenerator[Wakeup]:
        wakeup, number = WakeupEvent(), self.process.world.schedule.number()
        watchers = self._bus.watchers.setdefault(thread_id, {})
        watchers[number] = (self, wakeup)
        try:
            await asyncio.sleep(0.001)
            yield wakeup
        finally:
            watchers.pop(number, None)

    async def aclose(self) -> None:
        if self._epoch is not None and self._bus.listeners.get(self._epoch) is self:
            del self._bus.listeners[self._epoch]
        self.on_signal = None


class SimSlots:
    """Implements `SlotLock` for one process, with what the scripts do in Redis."""

    def __init__(self, process: Process, bus: Bus, notifier: SimNotifier) -> None:
        self._process, self._bus, self._notifier = process, bus, notifier

    async def admit(self, thread_id: str, run_id: str) -> SlotAnswer:
        world = self._process.world
        if not world.faults.connected or not self._process.linked:
            return SlotAnswer(SlotState.unknown)
        await asyncio.sleep(world.chance.uniform(0.0002, 0.003))
        if world.chance.random() < world.faults.lose:
            world.meet("Slots", "admit", "requested", "lost")
            await asyncio.sleep(0.25)
            return SlotAnswer(SlotState.unknown)
        holder = self._bus.slots.get(thread_id)
        if holder is not None and holder[0] != run_id:
            return SlotAnswer(SlotState.busy, holder[0])
        return SlotAnswer(SlotState.free)

    def bind(self, thread_id: str, run_id: str, *, fence: int) -> None:
        if self._process.loop.dead or not self._process.world.faults.connected:
            return

        def act() -> None:
            self._bus.slots[thread_id] = (run_id, fence)

        self._bus.later(self._process, "bind", act)

    def release(self, thread_id: str, run_id: str, *, fence: int) -> None:
        if self._process.loop.dead or not fence:
            return
        self._notifier.notify_thread(thread_id, Signal(kind="settled"))
        if not self._process.world.faults.connected:
            return

        def act() -> None:
            if (known := self._bus.slots.get(thread_id)) is not None and known[1] <= fence:
                del self._bus.slots[thread_id]

        self._bus.later(self._process, "release", act)
