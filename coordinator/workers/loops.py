"""The loops of a worker: tick, sweep, and the next registration, each at its varying interval."""

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
from coordinator.workers.reaper import Reaper
from coordinator.workers.watch import Watch
from coordinator.workers.worker import Worker
from stores.tasks import begin_soon

logger = logging.getLogger(__name__)


class Loops:
    """`begin` is for every registration; the loops themselves begin once and go on over epochs."""

    def __init__(
        self,
        settings: Settings,
        *,
        worker: Worker,
        watch: Watch,
        reaper: Reaper,
        notifier: Notifier,
        telemetry: Telemetry,
    ) -> None:
        self._settings, self._worker, self._watch, self._reaper = settings, worker, watch, reaper
        self._notifier, self._telemetry = notifier, telemetry
        self._tasks: list[asyncio.Task[None]] = []
        self._first_sweep: asyncio.TimerHandle | None = None
        self._kick_tick, self._kick_anew, self._kick_sweep = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.stopped = False

    @property
    def running(self) -> bool:
        return bool(self._tasks)

    async def begin(self, epoch: int) -> None:
        """Listen on the abort channel of `epoch`, and look at everything of mine from now on."""
        await self._notifier.start(epoch, self._watch.signal, self._kick_tick.set, self._connectivity)
        if not self._tasks and not self.stopped:  # a registration may outlast the loop that asked for it
            self._start()

    def _start(self) -> None:
        settings, jitter = self._settings, self._settings.jitter
        loop = asyncio.get_running_loop()
        # A restart is cleaned up at once, not after the first interval; but an operator who reconciles
        # right after the start, with an error text of his own, comes first.
        self._first_sweep = loop.call_later(settings.short_tick / 2, self._kick_sweep.set)
        self._tasks = [
            begin_soon(every(self._pace, jitter, self._watch.tick, self._kick_tick)),
            begin_soon(every(lambda: settings.renew, jitter, self._worker.stay, self._kick_anew)),
            begin_soon(every(lambda: settings.sweep, jitter, self._reaper.sweep, self._kick_sweep)),
        ]

    def register_anew(self) -> None:
        """The epoch is over: ask for another, at once."""
        self._kick_anew.set()

    async def stop(self) -> None:
        """End all loops, for good. Idempotent."""
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


async def every(
    interval: Callable[[], float], jitter: float, work: Callable[[], Awaitable[None]], kick: asyncio.Event
) -> None:
    """Do `work` at a varying interval, and at once whenever `kick` is set. Its errors are logged; one that
    repeats itself, once."""
    logged = ""
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
            logger.warning("%s was cancelled from within", getattr(work, "__qualname__", "periodic work"))
        except CoordinatorError as error:
            level = logging.DEBUG if str(error) == logged else logging.WARNING
            logged = str(error)
            logger.log(level, "%s: %s", getattr(work, "__qualname__", "periodic work"), error)
        except Exception:
            logger.exception("%s failed", getattr(work, "__qualname__", "periodic work"))
        else:
            logged = ""
