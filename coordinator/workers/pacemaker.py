"""Pacemakers send heartbeats, from a thread of their own or from the event loop."""

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
from coordinator.workers.lease import DECLARED_DEAD, Lease, Pacemaker
from coordinator.workers.loops import every
from coordinator.workers.stall import RECALL, StallWatch
from stores.base import WorkerStore
from stores.optional import Heart, HeartStore
from stores.tasks import begin_soon

logger = logging.getLogger(__name__)

RETRY_DIVISOR = 5  # a failed renewal is retried after the interval divided by this
STOP_WITHIN = 1.0  # s; a thread that is still blocked then (behind a paused process) is not joined


def pacemaker_for(store: WorkerStore, settings: Settings) -> Pacemaker:
    """Returns a ThreadPacemaker if the store offers a separate connection for heartbeats, else a
    LoopPacemaker."""
    kind = ThreadPacemaker if isinstance(store, HeartStore) else LoopPacemaker
    return kind(store, settings)  # pyright: ignore[reportArgumentType] - isinstance checked it


class ThreadPacemaker:
    """Sends heartbeats from a daemon thread through the store's `heart`, so that neither a blocked event loop
    nor a saturated writer delays them. Stops renewing once the event loop has been blocked for
    `stall_limit`."""

    def __init__(self, store: HeartStore, settings: Settings) -> None:
        self._store, self._settings = store, settings
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        # A renewal that began during a stall measured only a part of it, and is the last one for an interval.
        self.stall = StallWatch(recall=max(RECALL, 2 * settings.renew))
        self.failing_since: float | None = None
        self.failure: str | None = None

    @property
    def lag(self) -> float | None:
        return max(self._probe.lag, self.stall.lag) if self._thread is not None else None

    def start(self, lease: Lease) -> None:
        if self._thread is None and not self._stop.is_set():
            self._probe = LoopProbe(asyncio.get_running_loop(), lease.clock, self._settings.stall_limit)
            self._thread = threading.Thread(
                target=self._run, args=(lease, self._probe), name="coordinator-heart", daemon=True
            )
            self._thread.start()
            self.stall.start()

    async def stop(self) -> None:
        self._stop.set()
        self.stall.stop()
        if (thread := self._thread) is not None and thread.is_alive():
            await asyncio.to_thread(thread.join, STOP_WITHIN)

    def _run(self, lease: Lease, probe: LoopProbe) -> None:
        heart = self._connected()
        pause = self._pause()
        while not self._stop.wait(pause):
            began = lease.clock()
            renewed = False
            try:
                heart = heart or self._store.heart()
                renewed = self._beat(heart, lease, probe)
                self.failing_since = self.failure = None
            except StoreUnavailable as error:
                self._record_failure(error, began)
                logger.warning(
                    "This worker (epoch %d) could not renew its lease, and retries; the lease ends in %.1f"
                    " s: %s",
                    lease.epoch,
                    lease.remaining,
                    error,
                )
            except StoreReplaced as error:  # other workers may use the replacement
                lease.revoke(lease.epoch, str(error))
                _close(heart)  # its locks would block them
                heart = None
            except Exception as error:
                self._record_failure(error, began)
                logger.exception(
                    "The heartbeat of this worker (epoch %d) failed; it is retried on a new connection",
                    lease.epoch,
                )
                _close(heart)
                heart = None
            took = lease.clock() - began
            pause = max(0.0, self._pause() / (1 if renewed else RETRY_DIVISOR) - took)
        _close(heart)

    def _connected(self) -> Heart | None:
        """Connects before the first heartbeat is due, because descriptors may be exhausted by then. Returns
        None on failure: the first heartbeat retries, and reports the error."""
        try:
            return self._store.heart()
        except Exception:  # noqa: BLE001 - the first heartbeat raises and handles it
            return None

    def _record_failure(self, error: Exception, began: float) -> None:
        self.failing_since, self.failure = self.failing_since or began, str(error)

    def _pause(self) -> float:
        jitter = self._settings.jitter
        return self._settings.renew * random.uniform(1 - jitter, 1 + jitter)

    def _beat(self, heart: Heart, lease: Lease, probe: LoopProbe) -> bool:
        """Renews the lease once. Returns False if there is no lease to renew, the event loop is stalled, or
        the epoch is dead."""
        epoch = lease.epoch
        if probe.stalled() or not lease.held or not lease.alive(epoch):
            return False
        began = lease.clock()
        if not heart.beat(epoch):
            lease.revoke(epoch, DECLARED_DEAD)
            return False
        return lease.renewed(epoch, began)


class LoopProbe:
    """Measures whether the event loop is blocked: the heartbeat thread schedules a callback, and the loop
    runs it."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float], stall_limit: float
    ) -> None:
        self._loop, self._clock, self._limit = loop, clock, stall_limit
        self._ident = threading.get_ident()
        self._scheduled_at: float | None = None
        self._lag = 0.0
        self._logged = False

    @property
    def lag(self) -> float:
        """Delay of the last callback (s), or of the outstanding one if that is longer already."""
        scheduled_at = self._scheduled_at
        return self._lag if scheduled_at is None else max(self._lag, self._clock() - scheduled_at)

    def stalled(self) -> bool:
        """Returns whether a callback has been outstanding for `stall_limit`, and schedules one if none is.
        Logs each stall once, with the stack of the loop's thread."""
        now = self._clock()
        if (scheduled_at := self._scheduled_at) is None:
            self._logged, self._scheduled_at = False, now
            try:
                self._loop.call_soon_threadsafe(self._ran, now)
            except RuntimeError:  # the loop is closed: no run is left that needs the lease
                return True
            return False
        if now - scheduled_at < self._limit:
            return False
        if not self._logged:
            self._logged = True
            logger.error(
                "The event loop has been blocked for %.0f s: this worker's lease is no longer renewed, and"
                " its peers will declare it dead. The loop is blocked in\n%s",
                now - scheduled_at,
                self._stack(),
            )
        return True

    def _ran(self, scheduled_at: float) -> None:
        self._lag = self._clock() - scheduled_at
        self._scheduled_at = None

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._ident)  # pyright: ignore[reportPrivateUsage] - documented
        return "".join(traceback.format_stack(frame)) if frame is not None else "(its thread has ended)"


class LoopPacemaker:
    """Sends heartbeats from the event loop through the store's ordinary writer: for stores without a separate
    connection, and for simulations in virtual time."""

    lag = stall = failing_since = failure = None

    def __init__(self, store: WorkerStore, settings: Settings) -> None:
        self._store, self._settings = store, settings
        self._task: asyncio.Task[None] | None = None
        self._stopped = False

    def start(self, lease: Lease) -> None:
        if self._task is None and not self._stopped:
            settings = self._settings
            beating = every(
                lambda: settings.renew,
                settings.jitter,
                lambda: self._beat(lease),
                asyncio.Event(),
                what="The heartbeat of this worker",
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
            lease.revoke(epoch, DECLARED_DEAD)


def _close(heart: Heart | None) -> None:
    if heart is not None:
        heart.close()
