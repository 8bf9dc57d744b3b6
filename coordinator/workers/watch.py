"""The tick: one read of a few indexes detects every change that this worker has not been notified of."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence

from coordinator.clock import boottime
from coordinator.errors import CoordinatorError
from coordinator.notifier import Signal
from coordinator.runs.cancellation import Delivery
from coordinator.runs.entry import Entry
from coordinator.runs.hinted_claims import HintedClaims
from coordinator.runs.incarnation import Incarnation
from coordinator.runs.jobs import Jobs
from coordinator.runs.registry import Registry
from coordinator.runs.thread_queue import ThreadQueue
from coordinator.runs.timeouts import Timeouts
from coordinator.workers.drain import Drain
from stores.base import WorkerStore

logger = logging.getLogger(__name__)

_MAX_LOGGED_FAILURES = 1000

NOT_HELD = (
    "according to the store, this run does not hold its thread: its worker was declared dead, or the store"
    " was restored to an earlier state"
)


class Watch:
    def __init__(
        self,
        store: WorkerStore,
        registry: Registry,
        *,
        worker: Incarnation,
        delivery: Delivery,
        queue: ThreadQueue,
        timeouts: Timeouts,
        drain: Drain,
        jobs: Jobs,
        clock: Callable[[], float] = boottime,
    ) -> None:
        self._store, self._registry, self._worker = store, registry, worker
        self._delivery, self._queue, self._jobs = delivery, queue, jobs
        self._hinted = HintedClaims(jobs, claim=queue.claim, tick=self.tick)
        self._clock = clock
        self.ticked_at: float | None = None
        """When the store last answered a tick, on `clock`."""
        self.failing_since: float | None = None
        """When the first of the current series of failing ticks failed, on `clock`; None = the last
        succeeded."""
        self.failure: str | None = None
        """Error of the last tick; None = it succeeded."""
        self._timeouts, self._drain = timeouts, drain
        self._missing: frozenset[str] = frozenset()
        self._failed = set[str]()
        self.sweep_soon: Callable[[], None] = _no_sweep
        """Triggers a sweep for dead and draining workers."""

    async def tick(self) -> None:
        """Delivers undelivered cancels to the runs of this worker, ends overdue runs, claims free threads,
        and starts a requested drain. A failure for one run or thread is logged, and the tick continues with
        the others. Raises StoreUnavailable and other errors of the store."""
        try:
            await self._tick()
        except Exception as error:
            self.failing_since = self.failing_since or self._clock()
            self.failure = f"{type(error).__name__}: {error}"
            raise
        self.failing_since = self.failure = None

    async def _tick(self) -> None:
        self._registry.evict()
        if not self._worker.epoch:
            return
        before = self._registry.under_way_now()
        tick = await self._store.tick(self._worker.epoch, self._executing(before))
        self.ticked_at = self._clock()
        self._drop_runs_not_held(before, tick.not_held)
        for run_id in tick.not_held:
            if before[run_id].handed_over:  # a peer continues it
                await self._isolated(self._delivery.refresh_from_store(run_id), f"run {run_id!r}")
        if tick.drain is not None:
            self._drain.accept_request(tick.drain)
        for run_id in tick.cancelled:
            await self._isolated(self._delivery.refresh_from_store(run_id), f"run {run_id!r}")
        waiting = set(tick.waiting)
        for entry in self._registry.waiting():
            run_id = entry.record.run_id
            if entry.queued and run_id not in waiting:
                await self._isolated(self._delivery.refresh_from_store(run_id), f"run {run_id!r}")
        for overdue in tick.overdue:
            end = self._timeouts.end(overdue.run_id, overdue.cause)
            await self._isolated(end, f"run {overdue.run_id!r}")
        await self._isolated(self._timeouts.end_unlaunched(), "runs that were not launched")
        await self._claim(tick.free_threads)

    async def _claim(self, free_threads: Sequence[str]) -> None:
        left = False
        for thread_id in free_threads:
            if self._queue.claims_at_once(thread_id):
                await self._isolated(self._queue.claim(thread_id), f"thread {thread_id!r}")
            else:
                left = True
        if left:
            await self._isolated(self._queue.claim_for_others(), "runs that other workers have admitted")

    async def _isolated(self, step: Awaitable[object], subject: str) -> None:
        """Awaits one step of a tick. Errors of the coordinator end the tick; any other is logged at its first
        occurrence for `subject`."""
        try:
            await step
        except CoordinatorError:
            raise
        except Exception:
            if subject not in self._failed and len(self._failed) < _MAX_LOGGED_FAILURES:
                self._failed.add(subject)
                logger.exception("The tick failed for %s; every further tick retries", subject)

    def _executing(self, entries: dict[str, Entry]) -> list[str]:
        epoch = self._worker.epoch
        return [run_id for run_id, entry in entries.items() if entry.executes(epoch) or entry.handed_over]

    def _drop_runs_not_held(self, before: dict[str, Entry], not_held: frozenset[str]) -> None:
        """Drops runs that hold their thread here, but not in the store. A store that was restored to an
        earlier state (a backup, or a failover that lost commits) may give the thread to another run. A run is
        dropped when two consecutive ticks miss it, because a run that ends during a tick is missed once.
        `before`: the runs in progress when the tick was sent."""
        epoch = self._worker.epoch
        missing = {run_id for run_id in not_held if before[run_id].executes(epoch)}
        for run_id in missing & self._missing:
            self._delivery.lose(before[run_id], NOT_HELD)
        self._missing = frozenset(missing)

    def claim_soon(self) -> None:
        """Triggers a tick, which claims what is free."""
        self._hinted.everything()

    def place_released(self) -> None:
        """A run of this worker has given its place back: claims what was left in its queue meanwhile."""
        if self._queue.passed_over:
            self._queue.passed_over = False
            self.claim_soon()

    def signal(self, signal: Signal) -> None:
        """Handles a hint: refreshes the run or thread that it names, or all runs of this worker. A claim that
        names a run: a draining worker has handed it over, and a sweep continues it."""
        if signal.kind == "cancel" and signal.run_id is not None:
            self._jobs.spawn(
                self._delivery.refresh_from_store(signal.run_id), f"refreshing run {signal.run_id!r}"
            )
        elif signal.kind == "claim" and signal.run_id is not None:
            self.sweep_soon()
        elif signal.kind == "claim" and signal.thread_id is not None:
            self._hinted.thread(signal.thread_id)
        elif signal.kind in ("cancel", "claim"):
            self._hinted.everything()


def _no_sweep() -> None:
    """For a worker without loops."""
