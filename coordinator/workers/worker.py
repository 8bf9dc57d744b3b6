"""This worker's incarnation: an epoch, and what follows on the end of its lease."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Protocol

from coordinator.clock import boottime
from coordinator.errors import CoordinatorError, Draining, StoreInUse
from coordinator.settings import Settings
from coordinator.telemetry import Telemetry
from coordinator.telemetry.events import WorkerFenced, WorkerRegistered
from coordinator.workers.identity import new_worker
from coordinator.workers.lease import TOO_LATE, Lease
from stores.base import WorkerStore
from stores.rows import Orphan
from stores.tasks import begin_soon

logger = logging.getLogger(__name__)

LOOK_AGAIN = 0.5  # s; while the lease of a worker on another host is waited out


class LeasingStore(WorkerStore, Protocol):
    @property
    def shared(self) -> bool: ...
    async def open(self) -> None: ...


class Worker:
    """Registers lazily, at the first admission or in `start`. Implements `runs.incarnation`.

    `assistants()` names those that it has, for its row. `on_registered(epoch)` starts what belongs to an
    epoch; `on_fenced(why)` drops every run, and `gone()` returns when the dropped ones have stopped: only
    then a new epoch is asked for. `on_ended(orphans)`: what was left of an epoch has ended with it.
    """

    def __init__(
        self,
        store: LeasingStore,
        settings: Settings,
        telemetry: Telemetry,
        *,
        assistants: Callable[[], tuple[str, ...]] = tuple,
        clock: Callable[[], float] = boottime,
    ) -> None:
        self._store, self._settings, self._telemetry, self._clock = store, settings, telemetry, clock
        self._assistants = assistants
        self._registering: asyncio.Future[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._epoch = 0
        self._lost_because = TOO_LATE
        self._live = False
        self._draining = False
        self._closed = False
        self.lease = Lease(settings.lease_ttl - settings.lease_margin, clock=clock)
        self.lease.on_end = self._lease_ended
        self.command = ""
        """Begins the worker id; see `new_worker`."""
        self.drain_event = asyncio.Event()
        self.on_registered: Callable[[int], Awaitable[None]] = _nothing
        self.on_fenced: Callable[[str], None] = logger.debug
        self.on_ended: Callable[[Sequence[Orphan]], None] = logger.debug
        self.gone: Callable[[], Awaitable[None]] = _no_runs

    @property
    def epoch(self) -> int:
        return self._epoch

    @property
    def live(self) -> bool:
        return self._live

    @property
    def draining(self) -> bool:
        return self._draining or self._closed

    def check(self, epoch: int) -> None:
        """Raise LeaseLost where `epoch` may not act any more. From any thread."""
        self.lease.check(epoch)

    def ready_at_once(self) -> int:
        """The live epoch, where there is nothing to wait for; else 0: ask `ready`."""
        fit = self._live and not self._draining and not self._closed and self.lease.alive(self._epoch)
        return self._epoch if fit else 0

    async def ready(self) -> int:
        """One registration at a time, which goes on if its caller is cancelled: an epoch that nobody
        uses would look like a worker."""
        if self._draining or self._closed:
            raise Draining
        if not self._live or not self.lease.alive(self._epoch):
            if self._registering is None or self._registering.done():
                self._registering = begin_soon(self._register())
            await asyncio.shield(self._registering)
        return self._epoch

    async def stay(self) -> None:
        """Register anew where the last epoch is over. Raises as `ready`."""
        if not self._live:
            await self.ready()

    async def _register(self) -> None:
        previous = self._epoch
        self.fenced(previous, TOO_LATE)
        lost_because = self._lost_because
        await self.gone()
        await self._store.open()
        began, epoch = await self._new_epoch()
        self._loop = asyncio.get_running_loop()
        self._epoch, self._live = epoch, True
        # Nobody hears a heartbeat where nobody else uses the rows: there the lease never ends.
        self.lease.begin(epoch, began, endless=not self._store.shared)
        self._watch_over(epoch)
        self._telemetry.emit(WorkerRegistered(epoch))
        await self.on_registered(epoch)
        if previous:
            await self._sign_off(previous, f"lost its lease before this run finished: {lost_because}")

    async def _new_epoch(self) -> tuple[float, int]:
        """When it was asked for, and the epoch. A store that a worker of another host has a lease on may be
        this one's own, from before a reboot: that lease is waited out. Raises StoreInUse as soon as the other
        worker renews it."""
        heard: tuple[int, int] | None = None
        while True:
            began = self._clock()
            try:
                return began, await self._store.register(
                    new_worker(self._settings.lease_ttl, self._assistants(), command=self.command)
                )
            except StoreInUse as error:
                if heard is None:
                    logger.warning("%s Waiting for %.0f s for that lease to end.", error, error.lease_left)
                elif heard != error.heartbeat:
                    raise
                heard = error.heartbeat
                await asyncio.sleep(min(error.lease_left + 0.01, LOOK_AGAIN))
            if self._draining or self._closed:
                raise Draining

    def _watch_over(self, epoch: int) -> None:
        """Find the end of the lease also where no task asks and no renewal comes back."""
        self._disarm()
        if self._live and epoch == self._epoch and self._store.shared and self.lease.alive(epoch):
            delay = self.lease.remaining + 0.001  # the two clocks need not run alike: look again then
            self._expiry = asyncio.get_running_loop().call_later(delay, self._watch_over, epoch)

    def _disarm(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None

    def _lease_ended(self, epoch: int, why: str) -> None:
        """From whatever thread found out, be it in the middle of a run's code."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed, and every task with it
                self._loop.call_soon_threadsafe(self.fenced, epoch, why)

    def fenced(self, epoch: int, why: str) -> None:
        if not self._live or epoch != self._epoch:
            return
        self._live, self._lost_because = False, why
        self.lease.end(epoch)
        self._disarm()
        self._telemetry.emit(WorkerFenced(epoch, why))
        self.on_fenced(why)

    def drain(self) -> None:
        self._draining = True
        self.drain_event.set()

    async def retire(self) -> None:
        """Leave for good: what is still in flight here is ended. Idempotent."""
        self._closed = True
        if self._registering is not None:
            try:
                await asyncio.wait((self._registering,))
            finally:
                self._registering.cancel()
        if self._live:
            self._live = False
            self.lease.end(self._epoch)
            self._disarm()
            await self._sign_off(self._epoch, "shut down before this run finished")

    async def _sign_off(self, epoch: int, what: str) -> None:
        try:
            self.on_ended(await self._store.retire(epoch, error=f"Worker epoch {epoch} {what}"))
        except CoordinatorError as error:
            logger.warning("Worker epoch %d could not sign off; its peers will bury it: %s", epoch, error)


async def _nothing(epoch: int) -> None:
    del epoch


async def _no_runs() -> None:
    """There is nothing to wait for."""
