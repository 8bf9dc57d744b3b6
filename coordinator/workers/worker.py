"""This worker's incarnation: an epoch, and a lease that it renews or fences itself over."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Protocol

from coordinator.clock import boottime
from coordinator.errors import CoordinatorError, Draining, LeaseLost, StoreUnavailable
from coordinator.settings import Settings
from coordinator.telemetry import Telemetry
from coordinator.telemetry.events import WorkerFenced, WorkerRegistered
from coordinator.workers.identity import new_worker
from stores.base import WorkerStore

logger = logging.getLogger(__name__)


class LeasingStore(WorkerStore, Protocol):
    @property
    def shared(self) -> bool: ...
    async def open(self) -> None: ...


class Worker:
    """Registers lazily, at the first admission or in `start`. Implements `runs.incarnation`.

    `on_registered(epoch)` starts what belongs to an epoch; `on_fenced(why)` drops every run, and
    `gone()` returns when the dropped ones have stopped: only then a new epoch is asked for.
    """

    def __init__(
        self,
        store: LeasingStore,
        settings: Settings,
        telemetry: Telemetry,
        *,
        clock: Callable[[], float] = boottime,
    ) -> None:
        self._store, self._settings, self._telemetry, self._clock = store, settings, telemetry, clock
        self._registering: asyncio.Future[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._epoch = 0
        self._deadline = -math.inf
        self._live = False
        self._draining = False
        self._closed = False
        self.drain_event = asyncio.Event()
        self.on_registered: Callable[[int], Awaitable[None]] = _nothing
        self.on_fenced: Callable[[str], None] = logger.debug
        self.gone: Callable[[], Awaitable[None]] = _no_runs

    @property
    def epoch(self) -> int:
        return self._epoch

    @property
    def live(self) -> bool:
        return self._live

    def check(self, epoch: int) -> None:
        if epoch == self._epoch and self._live:
            if self._clock() <= self._deadline:
                return
            if self._loop is not None:  # not from here: this may be any thread
                self._loop.call_soon_threadsafe(self._expire, epoch)
        raise LeaseLost(epoch)

    async def ready(self) -> int:
        """One registration at a time, which goes on if its caller is cancelled: an epoch that nobody
        uses would look like a worker."""
        if self._draining or self._closed:
            raise Draining
        if not self._live or self._clock() > self._deadline:
            if self._registering is None or self._registering.done():
                self._registering = asyncio.ensure_future(self._register())
            await asyncio.shield(self._registering)
        return self._epoch

    async def _register(self) -> None:
        previous = self._epoch
        self.fenced(previous, _TOO_LATE)
        await self.gone()
        await self._store.open()
        began = self._clock()
        epoch = await self._store.register(new_worker(self._settings.lease_ttl))
        self._loop = asyncio.get_running_loop()
        self._epoch, self._live = epoch, True
        self._extend(began)
        self._telemetry.emit(WorkerRegistered(epoch))
        await self.on_registered(epoch)
        if previous:
            await self._sign_off(previous)

    def _extend(self, began: float) -> None:
        """Nobody hears a heartbeat where nobody else uses the rows, so there the lease never ends.

        The timer finds its end also while a renewal hangs."""
        if not self._store.shared:
            self._deadline = math.inf
            return
        self._deadline = began + self._settings.lease_ttl - self._settings.lease_margin
        self._arm()

    def _arm(self) -> None:
        self._disarm()
        delay = max(0.0, self._deadline - self._clock()) + 0.001
        self._expiry = asyncio.get_running_loop().call_later(delay, self._expire, self._epoch)

    def _disarm(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None

    def _expire(self, epoch: int) -> None:
        if not self._live or epoch != self._epoch:
            return
        if self._clock() > self._deadline:
            self.fenced(epoch, _TOO_LATE)
        else:  # the two clocks need not run alike
            self._arm()

    async def beat(self) -> None:
        """Renew the lease; fence ourselves where the store says that we are dead, or it got too late."""
        if not self._live:
            return
        epoch, began = self._epoch, self._clock()
        try:
            alive = await self._store.beat(epoch)
        except StoreUnavailable as error:
            logger.warning("The lease could not be renewed: %s", error)
        else:
            if not alive:
                self.fenced(epoch, "a peer has buried this epoch")
            elif epoch == self._epoch and self._live:
                self._extend(began)
        self._expire(epoch)

    def fenced(self, epoch: int, why: str) -> None:
        if not self._live or epoch != self._epoch:
            return
        self._live = False
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
            await asyncio.wait((self._registering,))
        if self._live:
            self._live = False
            self._disarm()
            await self._sign_off(self._epoch)

    async def _sign_off(self, epoch: int) -> None:
        try:
            await self._store.retire(epoch)
        except CoordinatorError as error:
            logger.warning("Worker epoch %d could not sign off; its peers will bury it: %s", epoch, error)


_TOO_LATE = "the lease could not be renewed in time"


async def _nothing(epoch: int) -> None:
    del epoch


async def _no_runs() -> None:
    """There is nothing to wait for."""
