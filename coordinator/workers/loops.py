"""The loops of a worker: tick, sweep and registration, each at a jittered interval."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

from coordinator.errors import CoordinatorError
from coordinator.notifier import Connectivity, Notifier
from coordinator.settings import Settings
from coordinator.telemetry import Telemetry
from coordinator.telemetry.events import ConnectivityChanged
from coordinator.telemetry.repeated import Repeated
from coordinator.workers.reaper import Reaper
from coordinator.workers.unclaimed import UnclaimedRuns
from coordinator.workers.watch import Watch
from coordinator.workers.worker import Worker
from stores.tasks import begin_soon

logger = logging.getLogger(__name__)

TICK = "The poll for cancels and queued runs"
STAY = "The registration of this worker"
SWEEP = "The sweep for dead workers"


class Loops:
    """`begin` is called at every registration; the loops are started once and continue across epochs."""

    def __init__(
        self,
        settings: Settings,
        *,
        worker: Worker,
        watch: Watch,
        reaper: Reaper,
        unclaimed: UnclaimedRuns,
        notifier: Notifier,
        telemetry: Telemetry,
    ) -> None:
        self._settings, self._worker, self._watch, self._reaper = settings, worker, watch, reaper
        self._unclaimed = unclaimed
        self._notifier, self._telemetry = notifier, telemetry
        self._tasks: list[asyncio.Task[None]] = []
        self._first_sweep: asyncio.TimerHandle | None = None
        self._kick_tick, self._kick_anew, self._kick_sweep = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.stopped = False
        self.record_drain: Callable[[], Awaitable[None]] = _no_drain

    @property
    def running(self) -> bool:
        return bool(self._tasks)

    async def begin(self, epoch: int) -> None:
        """Subscribes to the abort channel of `epoch`, and starts the loops at the first call."""
        await self._notifier.start(epoch, self._watch.signal, self._kick_tick.set, self._connectivity)
        if not self._tasks and not self.stopped:  # a registration may outlast the loops
            self._start()

    def _start(self) -> None:
        settings, jitter = self._settings, self._settings.jitter
        loop = asyncio.get_running_loop()
        # After a restart, orphans are ended without waiting for the first interval. The delay lets a
        # `reconcile` that is called right after the start, with its own error text, go first.
        self._first_sweep = loop.call_later(settings.short_tick / 2, self._kick_sweep.set)
        self._tasks = [
            begin_soon(every(self._pace, jitter, self._watch.tick, self._kick_tick, what=TICK)),
            begin_soon(every(lambda: settings.renew, jitter, self._stay, self._kick_anew, what=STAY)),
            begin_soon(every(lambda: settings.sweep, jitter, self._sweep, self._kick_sweep, what=SWEEP)),
        ]

    async def _stay(self) -> None:
        await self._worker.stay()
        await self.record_drain()

    async def _sweep(self) -> None:
        await self._reaper.sweep()
        await self._unclaimed.examine()

    def sweep_soon(self) -> None:
        """Triggers a sweep at once."""
        self._kick_sweep.set()

    def register_anew(self) -> None:
        """Triggers the registration of a new epoch at once, because the current one has ended."""
        self._kick_anew.set()

    async def stop(self) -> None:
        """Ends all loops; `begin` does not start them again. Idempotent."""
        self.stopped = True
        tasks, self._tasks = self._tasks, []
        if self._first_sweep is not None:
            self._first_sweep.cancel()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _pace(self) -> float:
        connected = self._notifier.connectivity is Connectivity.connected
        return self._settings.tick if connected else self._settings.short_tick

    def _connectivity(self, connectivity: Connectivity) -> None:
        self._telemetry.emit(ConnectivityChanged(connectivity.value))
        self._kick_tick.set()


async def _no_drain() -> None:
    """The default of `record_drain`: no drain is to be recorded."""


async def every(
    interval: Callable[[], float],
    jitter: float,
    work: Callable[[], Awaitable[None]],
    kick: asyncio.Event,
    *,
    what: str,
) -> None:
    """Calls `work` at a jittered interval (s), and at once whenever `kick` is set. Logs its errors with
    `what`, and continues; an error that repeats is logged once."""
    failures = Repeated()
    while True:
        pause = interval() * random.uniform(1 - jitter, 1 + jitter)
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):  # wait_for swallows a cancel while `kick` is set (3.11)
                await kick.wait()
        kick.clear()
        try:
            await work()
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is None or task.cancelling():
                raise
            logger.warning("%s was cancelled by its own code and is retried after its interval", what)
        except CoordinatorError as error:
            logger.log(failures.level_of(error), "%s failed and is retried: %s", what, error)
        except Exception:
            logger.exception("%s failed and is retried after its interval", what)
        else:
            failures.succeeded()
