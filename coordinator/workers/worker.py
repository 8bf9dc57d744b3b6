"""The registration of this worker: its epoch, its lease, and the transition to the next epoch."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from coordinator.clock import boottime
from coordinator.errors import CoordinatorError, Draining, StoreInUse
from coordinator.settings import Settings
from coordinator.telemetry import Telemetry
from coordinator.telemetry.events import WorkerFenced, WorkerRegistered
from coordinator.workers.identity import new_worker
from coordinator.workers.lease import TOO_LATE, Lease
from stores.base import WorkerStore
from stores.lock_watch import LockWatched
from stores.rows import Orphan
from stores.tasks import begin_soon

logger = logging.getLogger(__name__)

RETRY_REGISTRATION = 0.5  # s; interval while the lease of a worker on another host is waited out


class LeasingStore(WorkerStore, Protocol):
    @property
    def shared(self) -> bool: ...
    async def open(self) -> None: ...


class Worker:
    """Registers lazily, at the first admission or in `start`. Implements `runs.incarnation`.

    `assistants()` returns the names of this worker's assistants, for its row. `on_registered(epoch)` starts
    what belongs to an epoch. `on_fenced(why)` drops every run, and `dropped_runs_stopped()` returns when the
    dropped runs have stopped: only then a new epoch is registered. `on_ended(orphans)` receives the runs that
    were ended when an epoch was retired.
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
        self._signed_off = 0
        """The last epoch that was signed off."""
        self._draining = False
        self._closed = False
        self.lease = Lease(settings.lease_ttl - settings.lease_margin, clock=clock)
        self.lease.on_end = self._lease_ended
        self.command = ""
        """Prefix of the worker id; see `new_worker`."""
        self.drain_event = asyncio.Event()
        self.on_registered: Callable[[int], Awaitable[None]] = _nothing
        self.on_fenced: Callable[[str], None] = logger.debug
        self.on_ended: Callable[[Sequence[Orphan]], None] = logger.debug
        self.dropped_runs_stopped: Callable[[], Awaitable[None]] = _no_runs

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
        """Raises LeaseLost if `epoch` may not act any more. May be called from any thread."""
        self.lease.check(epoch)

    def ready_at_once(self) -> int:
        """Returns the live epoch, or 0 if the worker has to register first or drains: then call `ready`."""
        ready = self._live and not self._draining and not self._closed and self.lease.alive(self._epoch)
        return self._epoch if ready else 0

    async def ready(self) -> int:
        """Returns the live epoch, and registers first if there is none. Concurrent callers share one
        registration, which continues if its caller is cancelled: an unused epoch would appear as a live
        worker. Raises Draining, StoreInUse, StoreUnavailable."""
        if self._draining or self._closed:
            raise Draining
        if not self._live or not self.lease.alive(self._epoch):
            if self._registering is None or self._registering.done():
                self._registering = begin_soon(self._register())
            await asyncio.shield(self._registering)
        return self._epoch

    async def stay(self) -> None:
        """Registers a new epoch if the current one has ended, unless this worker drains. Raises StoreInUse,
        StoreUnavailable."""
        if not self._live:
            with suppress(Draining):
                await self.ready()

    async def _register(self) -> None:
        previous = self._epoch
        self.fenced(previous, TOO_LATE)
        lost_because = self._lost_because
        await self.dropped_runs_stopped()
        await self._store.open()
        began, epoch = await self._new_epoch()
        leaves = self.draining  # since the registration was sent, so that no drain ends the new epoch
        if leaves:
            await self._sign_off(epoch, "was registered while its process drained")
        else:
            await self._begin(epoch, began)
        if previous:
            await self._sign_off_lost(previous, lost_because)
        if leaves:
            raise Draining

    async def _begin(self, epoch: int, began: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._epoch, self._live = epoch, True
        # If no other process uses the store, no peer reads heartbeats, and the lease never ends.
        self.lease.begin(epoch, began, endless=not self._store.shared)
        self._arm_expiry(epoch)
        self._telemetry.emit(WorkerRegistered(epoch))
        await self.on_registered(epoch)

    async def _new_epoch(self) -> tuple[float, int]:
        """Returns when the registration was sent (on the clock), and the epoch. If a worker of another host
        has a lease, waits until it expires, because that worker may be this host before a reboot. Raises
        StoreInUse as soon as that worker renews its lease, and Draining."""
        last_heartbeat: tuple[int, int] | None = None
        while True:
            began = self._clock()
            try:
                return began, await self._store.register(
                    replace(
                        new_worker(self._settings.lease_ttl, self._assistants(), command=self.command),
                        admits_only=self._settings.admit_only,
                    )
                )
            except StoreInUse as error:
                if last_heartbeat is None:
                    logger.warning("%s Waiting for %.0f s for that lease to end.", error, error.lease_left)
                elif last_heartbeat != error.heartbeat:
                    raise
                last_heartbeat = error.heartbeat
                await asyncio.sleep(min(error.lease_left + 0.01, RETRY_REGISTRATION))
            if self._draining or self._closed:
                raise Draining

    def _arm_expiry(self, epoch: int) -> None:
        """Detects the end of the lease even if no task checks it and no renewal returns."""
        self._disarm()
        if self._live and epoch == self._epoch and self._store.shared and self.lease.alive(epoch):
            delay = self.lease.remaining + 0.001  # the loop's clock may run faster: then this is armed again
            self._expiry = asyncio.get_running_loop().call_later(delay, self._arm_expiry, epoch)

    def _disarm(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None

    def _lease_ended(self, epoch: int, why: str) -> None:
        """Called from the thread that detected the end, which may be executing a run's code."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed, and no task is left
                self._loop.call_soon_threadsafe(self.fenced, epoch, why)

    def fenced(self, epoch: int, why: str) -> None:
        if not self._live or epoch != self._epoch:
            return
        if isinstance(self._store, LockWatched) and (trouble := self._store.lock_watch.trouble) is not None:
            why = f"{why}: {trouble}"
        self._live, self._lost_because = False, why
        self.lease.end(epoch)
        self._disarm()
        self._telemetry.emit(WorkerFenced(epoch, why))
        self.on_fenced(why)

    def drain(self) -> None:
        self._draining = True
        self.drain_event.set()

    async def retire(self) -> None:
        """Ends the epoch, also one that has lost its lease, and the runs that are still in flight in it.
        Registers no new one. Idempotent."""
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
        elif self._signed_off < self._epoch:
            await self.dropped_runs_stopped()
            await self._sign_off_lost(self._epoch, self._lost_because)

    async def _sign_off_lost(self, epoch: int, why: str) -> None:
        await self._sign_off(epoch, f"lost its lease before this run finished: {why}")

    async def _sign_off(self, epoch: int, what: str) -> None:
        self._signed_off = epoch
        try:
            self.on_ended(await self._store.retire(epoch, error=f"Worker epoch {epoch} {what}"))
        except CoordinatorError as error:
            logger.warning(
                "This worker (epoch %d) could not sign off in the store; its runs are ended when its peers"
                " declare it dead: %s",
                epoch,
                error,
            )


async def _nothing(epoch: int) -> None:
    del epoch


async def _no_runs() -> None:
    """The default of `dropped_runs_stopped`: no run has to stop."""
