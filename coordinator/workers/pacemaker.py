"""Where heartbeats come from: a thread of its own, or the event loop."""

from __future__ import annotations

import asyncio
import logging
import random
import sys
import threading
import traceback
from collections.abc import Callable

from coordinator.errors import StoreReplaced, StoreUnavailable
from coordinator.settings import Settings
from coordinator.workers.lease import BURIED, Lease, Pacemaker
from coordinator.workers.loops import every
from coordinator.workers.stall import RECALL, StallWatch
from stores.base import Heart, HeartStore, WorkerStore
from stores.tasks import begin_soon

logger = logging.getLogger(__name__)

SOONER = 5  # a renewal that failed is repeated after this part of the interval
STOP_WITHIN = 1.0  # s; a thread that is blocked behind a paused process is left to end by itself


def pacemaker_for(store: WorkerStore, settings: Settings) -> Pacemaker:
    """A thread where the store has a connection to spare for it."""
    kind = ThreadPacemaker if isinstance(store, HeartStore) else LoopPacemaker
    return kind(store, settings)  # pyright: ignore[reportArgumentType] - as isinstance has said


class ThreadPacemaker:
    """Beats from a daemon thread through the store's `heart`, so that neither a blocked event loop nor
    a saturated writer starves it. The lease of a loop that has not turned for
    `stall_limit` is not renewed."""

    def __init__(self, store: HeartStore, settings: Settings) -> None:
        self._store, self._settings = store, settings
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        # A renewal that began within the stall has seen only a part of it, and is the last for so long.
        self.stall = StallWatch(recall=max(RECALL, 2 * settings.renew))
        self.failing_since: float | None = None
        self.failure: str | None = None

    @property
    def lag(self) -> float | None:
        return max(self._turning.lag, self.stall.lag) if self._thread is not None else None

    def start(self, lease: Lease) -> None:
        if self._thread is None and not self._stop.is_set():
            self._turning = Turning(asyncio.get_running_loop(), lease.clock, self._settings.stall_limit)
            self._thread = threading.Thread(
                target=self._run, args=(lease, self._turning), name="coordinator-heart", daemon=True
            )
            self._thread.start()
            self.stall.start()

    async def stop(self) -> None:
        self._stop.set()
        self.stall.stop()
        if (thread := self._thread) is not None and thread.is_alive():
            await asyncio.to_thread(thread.join, STOP_WITHIN)

    def _run(self, lease: Lease, turning: Turning) -> None:
        heart = self._connected()
        pause = self._pause()
        while not self._stop.wait(pause):
            began = lease.clock()
            beaten = False
            try:
                heart = heart or self._store.heart()
                beaten = self._beat(heart, lease, turning)
                self.failing_since = self.failure = None
            except StoreUnavailable as error:
                self._fails(error, began)
                logger.warning("The lease could not be renewed: %s", error)
            except StoreReplaced as error:  # others may work on what is there now
                lease.revoke(lease.epoch, str(error))
                _close(heart)  # its locks would keep them waiting
                heart = None
            except Exception as error:
                self._fails(error, began)
                logger.exception("The heartbeat failed; it goes on with a new connection")
                _close(heart)
                heart = None
            took = lease.clock() - began
            pause = max(0.0, self._pause() / (1 if beaten else SOONER) - took)
        _close(heart)

    def _connected(self) -> Heart | None:
        """At once: when the first beat is due, no descriptor may be left for its connection. None where that
        fails; the first beat tries again and reports why."""
        try:
            return self._store.heart()
        except Exception:  # noqa: BLE001 - the first beat raises it again, where it is handled
            return None

    def _fails(self, error: Exception, began: float) -> None:
        self.failing_since, self.failure = self.failing_since or began, str(error)

    def _pause(self) -> float:
        jitter = self._settings.jitter
        return self._settings.renew * random.uniform(1 - jitter, 1 + jitter)

    def _beat(self, heart: Heart, lease: Lease, turning: Turning) -> bool:
        """False = there is nothing to renew, or it did not work."""
        epoch = lease.epoch
        if turning.stalled() or not lease.held or not lease.alive(epoch):
            return False
        began = lease.clock()
        if not heart.beat(epoch):
            lease.revoke(epoch, BURIED)
            return False
        return lease.renewed(epoch, began)


class Turning:
    """Does the event loop turn? Asked from the heart's thread, answered by the loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float], stall_limit: float
    ) -> None:
        self._loop, self._clock, self._limit = loop, clock, stall_limit
        self._ident = threading.get_ident()
        self._asked: float | None = None
        self._lag = 0.0
        self._told = False

    @property
    def lag(self) -> float:
        asked = self._asked
        return self._lag if asked is None else max(self._lag, self._clock() - asked)

    def stalled(self) -> bool:
        """True once a question has stood for `stall_limit`. Logged once for each stall, with the stack
        of what keeps the loop from turning."""
        now = self._clock()
        if (asked := self._asked) is None:
            self._told, self._asked = False, now
            try:
                self._loop.call_soon_threadsafe(self._answer, now)
            except RuntimeError:  # closed: nobody is left who could use a lease
                return True
            return False
        if now - asked < self._limit:
            return False
        if not self._told:
            self._told = True
            logger.error(
                "The event loop has not turned for %.0f s: the lease is not renewed any more. It is in\n%s",
                now - asked,
                self._stack(),
            )
        return True

    def _answer(self, asked: float) -> None:
        self._lag = self._clock() - asked
        self._asked = None

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._ident)  # pyright: ignore[reportPrivateUsage] - documented
        return "".join(traceback.format_stack(frame)) if frame is not None else "(its thread has ended)"


class LoopPacemaker:
    """Beats on the event loop, through the store's ordinary writer: for stores without a connection to
    spare, and for simulations in virtual time."""

    lag = stall = failing_since = failure = None

    def __init__(self, store: WorkerStore, settings: Settings) -> None:
        self._store, self._settings = store, settings
        self._task: asyncio.Task[None] | None = None
        self._stopped = False

    def start(self, lease: Lease) -> None:
        if self._task is None and not self._stopped:
            settings = self._settings
            beating = every(
                lambda: settings.renew, settings.jitter, lambda: self._beat(lease), asyncio.Event()
            )
            self._task = begin_soon(beating)

    async def stop(self) -> None:
        self._stopped = True
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))

    async def _beat(self, lease: Lease) -> None:
        epoch, began = lease.epoch, lease.clock()
        if not lease.held or not lease.alive(epoch):
            return
        if await self._store.beat(epoch):
            lease.renewed(epoch, began)
        else:
            lease.revoke(epoch, BURIED)


def _close(heart: Heart | None) -> None:
    if heart is not None:
        heart.close()
