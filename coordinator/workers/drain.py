"""Drain: refuse new runs, let runs finish or hand them over, stop the rest. A drain is not a cancel."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Protocol, TypeVar

from coordinator.notifier import Notifier, Signal
from coordinator.runs.cancellation import Delivery
from coordinator.runs.capacity import Capacity
from coordinator.runs.entry import Entry
from coordinator.runs.jobs import Jobs
from coordinator.runs.registry import Registry
from coordinator.runs.settlement import Settlement
from coordinator.schemas import Abort, CancelAction, Cause, RunStatus
from coordinator.workers.worker import Worker
from stores.base import DecisionStore, WorkerStore
from stores.errors import CoordinatorError
from stores.rows import DrainRequested, DrainWish, HandedOver
from stores.states import OPEN, WorkerState
from stores.tasks import begin_soon

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Limits of the steps after the grace (s). Together they take 3.5 s if the store answers at once.
DRAINED = 4.0  # all steps, even if the store does not answer; the process has 5 s to exit
FAREWELL = 0.5  # to set the worker to draining in the store, and for admissions in progress
LEAST_UNWIND, UNWIND = 0.5, 2.0  # for cancelled tasks to end by themselves
DECIDE = 1.0  # to decide the runs whose tasks did not end, and for these tasks to end then
DEPART = 3.0  # for a server to leave its port to others, before a requested drain
FORCE = 0.5  # to settle by force the runs whose tasks ignore their cancel

_LEAVING = Abort(RunStatus.interrupted, CancelAction.interrupt, Cause.shutdown, "the worker shut down")


class DrainingStore(DecisionStore, WorkerStore, Protocol):
    """Store operations that a drain uses."""


class Drain:
    """Cancels tasks first, and decides a run only if its task does not end by itself: a run that succeeds
    while unwinding stays a success. Never decides a run whose code has returned, nor one that another worker
    may continue. Cancels are accepted throughout.

    A worker has one drain: further calls join it, and the shortest grace applies.
    """

    def __init__(
        self,
        store: DrainingStore,
        registry: Registry,
        *,
        worker: Worker,
        delivery: Delivery,
        settlement: Settlement,
        notifier: Notifier,
        jobs: Jobs,
        capacity: Capacity,
        grace: float,
    ) -> None:
        self._store, self._registry, self._worker = store, registry, worker
        self._delivery, self._settlement, self._notifier = delivery, settlement, notifier
        self._jobs, self._capacity, self._grace = jobs, capacity, grace
        self._accepted_request: DrainWish | None = None
        self._requested_here = False
        self._unrecorded = False
        self._task: asyncio.Task[None] | None = None
        self._until = math.inf
        self._waiting: asyncio.Timeout | None = None
        self.depart: Callable[[], Awaitable[object]] | None = None
        """Called before a requested drain begins."""
        self._departure: asyncio.Task[None] | None = None

    @property
    def begun(self) -> bool:
        return self._task is not None

    @property
    def until(self) -> float:
        """The time at which the grace ends (s, clock of the event loop)."""
        return self._until

    async def run(self, grace: float | None) -> None:
        """Drains, and returns when the runs of this worker have settled or were handed over, at the latest
        4 s after `grace` (s; None = the setting). Continues if its caller is cancelled. Idempotent."""
        loop = asyncio.get_running_loop()
        seconds = self._grace if grace is None else grace
        self._shorten(loop.time() + seconds)
        if self._task is None or self._task.done():
            self._task = begin_soon(self._run(min(UNWIND, max(seconds, LEAST_UNWIND))))
        await asyncio.shield(self._task)

    async def request(self, epoch: int | None, grace: float | None) -> list[DrainRequested]:
        """Requests a drain of the worker `epoch` (None = of all workers) and returns those workers. The
        request is a row in the store, which each worker reads at its next tick; a hint triggers that tick at
        once. Raises StoreUnavailable."""
        self._requested_here = self._requested_here or epoch in (None, self._worker.epoch)
        peers = await self._store.request_drain(epoch, grace=grace)
        for peer in peers:
            if peer.epoch == self._worker.epoch:
                self._jobs.spawn(self._run_requested(grace), "the requested drain of this worker")
            else:
                self._notifier.notify_worker(peer.epoch, Signal(kind="claim"))
        return peers

    def accept_request(self, wish: DrainWish) -> None:
        """Starts or joins a drain that was requested in the store. Idempotent for the same request."""
        if wish != self._accepted_request:
            self._accepted_request = wish
            logger.info(
                "This worker drains at the request of %s: it admits no more runs, and those in"
                " flight get %g s. It admits runs again after a restart",
                "a client of it" if self._requested_here else "another process",
                self._grace if wish.grace is None else wish.grace,
            )
            self._jobs.spawn(self._run_requested(wish.grace), "the requested drain of this worker")

    async def _run_requested(self, grace: float | None) -> None:
        """A server first leaves its port to others, for at most `DEPART` (s), as it does at a signal."""
        if self.depart is not None and not self.begun:
            self._departure = self._departure or begin_soon(_departed(self.depart))
            await asyncio.shield(self._departure)
        await self.run(grace)

    def end_grace(self) -> None:
        """Ends the grace now. No effect before a drain has begun."""
        if self.begun:
            self._shorten(asyncio.get_running_loop().time())

    def _shorten(self, until: float) -> None:
        self._until = min(self._until, until)
        if self._waiting is not None and not self._waiting.expired():
            self._waiting.reschedule(self._until)

    async def _run(self, unwind: float) -> None:
        self._worker.drain()
        await self._leave_admission()
        self._capacity.close()
        entries = self._registry.unsettled()
        await self._decide_all(entry for entry in entries if entry.record.task is None and entry.stopped)
        await self._wait_for_grace()
        await self._within(FAREWELL, self._refresh_waiting())
        for entry in self._registry.unsettled():
            if entry.abort is None and not entry.handed_over:
                entry.warn(_LEAVING)
        await self._within(unwind, _all_ended(self._registry.unsettled(), reported=True))
        await self._decide_all(self._registry.unsettled())
        await self._within(DECIDE, _all_ended(self._registry.unsettled()))
        for entry in self._registry.unsettled():
            self._warn_if_admitted_late(entry)
            if entry.handed_over or entry.may_continue:  # by a peer, when this worker has signed off
                continue
            if entry.stopped or entry.own is None:  # its end could not be written: the outbox writes it
                self._settlement.conclude_soon(entry, None)
            else:
                self._settlement.force(entry)
        await self._within(FORCE, _all_ended(self._registry.unsettled()))

    def _warn_if_admitted_late(self, entry: Entry) -> None:
        """A run whose admission returned after the other tasks were warned: warn its task as well, and end
        the run with this abort unless it ended otherwise."""
        if entry.abort is None and entry.work.warned is None and not entry.handed_over:
            entry.warn(_LEAVING)
            if entry.open and entry.outcome is None and not entry.may_continue:
                entry.set_unwritten(_LEAVING)

    async def _within(self, seconds: float, work: Awaitable[T]) -> T | None:
        at = min(asyncio.get_running_loop().time() + seconds, self._until + DRAINED)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(at):
                return await work
        return None

    # -- the grace

    async def _wait_for_grace(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._until) as self._waiting:
                await _all_ended(self._registry.unsettled())
        self._waiting = None

    # -- no more runs

    async def _leave_admission(self) -> None:
        """When this returns, the store refuses admissions of this worker. Admissions that were committed
        before have returned to their callers, which had a turn of the loop to launch them."""
        handed_over: list[HandedOver] = []
        if self._worker.live:
            handed_over = await self._within(FAREWELL, self._mark_draining()) or []
        await self._within(FAREWELL, self._registry.all_admitted())
        for _ in range(2):  # one turn for callers of admissions, one for callbacks of tasks that ended
            await asyncio.sleep(0)
        if handed_over:
            await self._within(FAREWELL, self._refresh_waiting())

    async def _mark_draining(self) -> list[HandedOver]:
        """As `_record`. If the store is unavailable, `record` repeats it."""
        self._unrecorded = True
        try:
            return await self._record()
        except CoordinatorError as error:
            logger.warning(
                "This worker (epoch %d) drains, but could not record that in the store yet, so its waiting"
                " runs may not be handed over: %s",
                self._worker.epoch,
                error,
            )
            return []

    async def record(self) -> None:
        """Records the drain in the store, if that has failed. Until then no other worker continues the runs
        that this one hands over. Raises StoreUnavailable."""
        if self._unrecorded and self._worker.live and await self._record():
            await self._refresh_waiting()

    async def _record(self) -> list[HandedOver]:
        """Sets this worker to draining in the store, which hands over its waiting portable runs, and returns
        these. All live workers are notified; if a hint is lost, their ticks claim the runs."""
        handed_over = await self._store.drain(self._worker.epoch)
        self._unrecorded = False
        peers = await self._store.workers(counted=False) if handed_over else []
        for peer in peers:
            if peer.state is WorkerState.live:
                for thread_id in dict.fromkeys(run.thread_id for run in handed_over):
                    self._notifier.notify_worker(peer.epoch, Signal(kind="claim", thread_id=thread_id))
        return handed_over

    async def _refresh_waiting(self) -> None:
        """Re-reads the rows of waiting runs. They show which runs were handed over, even if the store's
        answer to the drain was lost."""
        try:
            for entry in self._registry.unsettled():
                if entry.queued:
                    await self._delivery.refresh_from_store(entry.record.run_id)
        except CoordinatorError as error:
            logger.warning("Waiting runs could not be read from the store during the drain: %s", error)

    # -- decisions

    async def _decide_all(self, entries: Iterable[Entry]) -> None:
        await self._within(DECIDE, asyncio.gather(*(self._end(entry) for entry in entries)))

    async def _end(self, entry: Entry) -> None:
        if entry.settled.is_set() or entry.elsewhere or entry.returned:
            return
        if entry.handed_over or entry.may_continue:
            return
        if entry.stopped and not entry.open:  # decided by its own code, at least on the record
            self._settlement.conclude_soon(entry, None)
            return
        try:
            if entry.own is None:  # decided only if it was not handed over to another worker
                await self._decide(entry, while_waiting=True)
            if entry.own is not None and entry.open:
                await self._decide(entry, while_waiting=False)
        except CoordinatorError as error:
            logger.warning(
                "Run %r could not be ended during the drain; it is ended when this worker signs off or is"
                " declared dead: %s",
                entry.record.run_id,
                error,
            )

    async def _decide(self, entry: Entry, *, while_waiting: bool) -> None:
        decision = await self._store.decide(
            entry.record.run_id,
            _LEAVING.status,
            action=_LEAVING.action,
            cause=_LEAVING.cause,
            reason=_LEAVING.reason,
            while_waiting=while_waiting,
            home=self._worker.epoch if while_waiting else None,
        )
        if decision is not None and decision.status in OPEN:
            self._delivery.apply_row(entry, decision)
        elif decision is not None:
            await self._delivery.deliver(decision)


async def _departed(depart: Callable[[], Awaitable[object]]) -> None:
    try:
        await asyncio.wait_for(depart(), DEPART)
    except Exception:
        logger.warning("The server of this worker could not step aside before the drain", exc_info=True)


async def _all_ended(entries: list[Entry], *, reported: bool = False) -> None:
    await asyncio.gather(*(_ended(entry, reported) for entry in entries))


async def _ended(entry: Entry, reported: bool) -> None:
    """Returns when `entry` is settled, or its task has stopped and no settlement is in progress. `reported`:
    also waits for the result that the task's creator may still report with `set_status`."""
    settled = begin_soon(entry.settled.wait())
    try:
        if (task := entry.record.task) is not None:
            await asyncio.wait((task, settled), return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(0)  # done callbacks of the task
        if entry.hands_over:
            if not entry.handed_over and entry.settling is not None:
                await asyncio.wait((entry.settling, settled), return_when=asyncio.FIRST_COMPLETED)
            return
        if entry.settling is not None or (reported and task is not None and entry.open):
            await settled
    finally:
        settled.cancel()
