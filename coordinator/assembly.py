"""Puts a manager's collaborators together: each gets only the ports that it uses."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from coordinator.assistants.values import StoredValues
from coordinator.clock import Stamps
from coordinator.lock import SlotLock
from coordinator.notifier import Connectivity, Notifier
from coordinator.runs.admission import Admissions
from coordinator.runs.cancellation import Cancellations, Delivery
from coordinator.runs.execution import Execution
from coordinator.runs.jobs import Jobs
from coordinator.runs.lifecycle import Lifecycle
from coordinator.runs.operations import Operations
from coordinator.runs.queries import Queries, Waiter
from coordinator.runs.registry import Registry
from coordinator.runs.settlement import Settlement
from coordinator.settings import Settings
from coordinator.telemetry import Hook, Telemetry
from coordinator.telemetry.events import ConnectivityChanged
from coordinator.workers.drain import Drain
from coordinator.workers.reaper import Reaper
from coordinator.workers.watch import Watch
from coordinator.workers.worker import Worker, every
from stores.base import CoordinationStore, ForgettingStore
from stores.outbox import Outbox
from stores.rows import Limits

_QUICK_POLL = 0.02  # s; first look of a waiter to whom no hint can come


class Assembly:
    """The collaborators of one manager, and the loops that belong to its epoch."""

    def __init__(
        self,
        store: CoordinationStore,
        settings: Settings,
        *,
        notifier: Notifier,
        slots: SlotLock,
        hooks: Iterable[Hook],
    ) -> None:
        self.store, self.settings, self.notifier = store, settings, notifier
        self.telemetry = Telemetry(hooks)
        self.jobs = Jobs()
        self.worker = worker = Worker(store, settings, self.telemetry)
        self._loops: list[asyncio.Task[None]] = []
        self._first_sweep: asyncio.TimerHandle | None = None
        self._closing = False
        self._kick_tick, self._kick_beat, self._kick_sweep = asyncio.Event(), asyncio.Event(), asyncio.Event()
        stamps = Stamps()
        self.registry = registry = Registry(settings.keep_finished, settings.keep_finished_max, self._evicted)
        self.values = values = StoredValues(store, lambda: worker.epoch)
        waiter = Waiter(store, registry, notifier, poll=settings.short_tick, quick=_QUICK_POLL)
        told: dict[str, Any] = {"telemetry": self.telemetry, "stamps": stamps}
        self.settlement = settlement = Settlement(
            store,
            registry,
            slots=slots,
            notifier=notifier,
            worker=worker,
            states=values,
            jobs=self.jobs,
            force_after=settings.force_after,
            **told,
        )
        self.delivery = delivery = Delivery(
            store, registry, notifier=notifier, worker=worker, settlement=settlement, **told
        )
        self.cancellations = Cancellations(store, registry, delivery=delivery, waiter=waiter, jobs=self.jobs)
        self.admissions = Admissions(
            store,
            registry,
            slots=slots,
            worker=worker,
            settlement=settlement,
            delivery=delivery,
            jobs=self.jobs,
            limits=Limits(settings.max_waiting_per_thread, settings.max_waiting_per_user),
            **told,
        )
        self.outbox = Outbox()
        self.lifecycle = lifecycle = Lifecycle(
            store,
            registry,
            settlement=settlement,
            delivery=delivery,
            states=values,
            jobs=self.jobs,
            outbox=self.outbox,
            **told,
        )
        self.execution = Execution(
            registry,
            lifecycle=lifecycle,
            settlement=settlement,
            values=values,
            worker=worker,
            telemetry=self.telemetry,
        )
        self.operations = Operations(
            store,
            registry,
            admissions=self.admissions,
            lifecycle=lifecycle,
            settlement=settlement,
            states=values,
            values=values,
        )
        self.queries = Queries(store, registry, waiter)
        self.watch = Watch(
            store, registry, worker=worker, delivery=delivery, settlement=settlement, jobs=self.jobs
        )
        self.reaper = Reaper(
            store,
            worker=worker,
            settlement=settlement,
            states=values,
            slots=slots,
            notifier=notifier,
            jobs=self.jobs,
            telemetry=self.telemetry,
        )
        self.drain = Drain(
            store,
            registry,
            worker=worker,
            delivery=delivery,
            settlement=settlement,
            grace=lambda: settings.grace,
        )
        worker.on_registered = self._registered
        worker.on_fenced = self._fenced
        worker.gone = self._gone

    async def _registered(self, epoch: int) -> None:
        if not self.store.shared:
            return
        await self.notifier.start(epoch, self.watch.signal, self._kick_tick.set, self._connectivity)
        if not self._loops and not self._closing:  # a registration may outlast the loop that asked for it
            self._start_loops()

    def _start_loops(self) -> None:
        settings, jitter = self.settings, self.settings.jitter
        loop = asyncio.get_running_loop()
        # A restart is cleaned up at once, not after the first interval; but an operator who reconciles
        # right after the start, with an error text of his own, comes first.
        self._first_sweep = loop.call_later(settings.short_tick / 2, self._kick_sweep.set)
        self._loops = [
            loop.create_task(every(self._pace, jitter, self.watch.tick, self._kick_tick)),
            loop.create_task(every(lambda: settings.renew, jitter, self._beat, self._kick_beat)),
            loop.create_task(every(lambda: settings.sweep, jitter, self.reaper.sweep, self._kick_sweep)),
        ]

    def _pace(self) -> float:
        connected = self.notifier.connectivity is Connectivity.connected
        return self.settings.tick if connected else self.settings.short_tick

    async def _beat(self) -> None:
        await self.worker.beat()
        if not self.worker.live:
            await self.worker.ready()  # the runs are dropped: register anew

    def _connectivity(self, connectivity: Connectivity) -> None:
        self.telemetry.emit(ConnectivityChanged(connectivity.value))
        self._kick_tick.set()

    def _fenced(self, why: str) -> None:
        for entry in self.registry.unsettled():
            self.settlement.lose(entry, why)
        self._kick_beat.set()

    async def _gone(self) -> None:
        """The runs of an epoch that is over have stopped, or had the time to."""
        lost = [entry.settled.wait() for entry in self.registry.unsettled() if entry.lost]
        await asyncio.gather(*lost)

    def _evicted(self, run_id: str) -> None:
        """What leaves memory here leaves the memory of the store as well."""
        if isinstance(self.store, ForgettingStore):
            self.store.forget(run_id)

    async def close(self, timeout: float | None) -> None:
        """Drain, sign off, end every task of this manager, let go of transport and store. Idempotent."""
        await self.drain.run(timeout)
        await self._stop_loops()
        await self.jobs.finished(within=5.0)
        await self.outbox.aclose()
        await self.worker.retire()
        for entry in self.registry.unsettled():  # admitted while the doors closed, or deaf to its cancel
            self.settlement.abandon(entry, "the worker has left")
        await self.notifier.aclose()
        await self.store.aclose()

    async def _stop_loops(self) -> None:
        self._closing = True
        loops, self._loops = self._loops, []
        if self._first_sweep is not None:
            self._first_sweep.cancel()
        for task in loops:
            task.cancel()
        if loops:
            await asyncio.wait(loops)
