"""Drain: admit nothing, let runs finish or hand them over, stop the rest, leave. It is not a cancel."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Iterable
from contextlib import suppress
from typing import Protocol, TypeVar

from coordinator.notifier import Notifier, Signal
from coordinator.runs.cancellation import Delivery
from coordinator.runs.entry import Entry
from coordinator.runs.jobs import Jobs
from coordinator.runs.registry import Registry
from coordinator.runs.settlement import Settlement
from coordinator.schemas import Abort, CancelAction, Cause, RunStatus
from coordinator.workers.worker import Worker
from stores.base import DecisionStore, WorkerStore
from stores.errors import CoordinatorError
from stores.rows import AskedToDrain, DrainWish, HandedOver
from stores.states import OPEN, WorkerState
from stores.tasks import begin_soon

logger = logging.getLogger(__name__)

T = TypeVar("T")

# What follows on the grace, in seconds. Where the store keeps none of it waiting it takes 3.5.
DRAINED = 4.0  # all of it, whatever the store does: of the 5 s within which a process has to be gone
FAREWELL = 0.5  # to tell the store, and for admissions that are under way
LEAST_UNWIND, UNWIND = 0.5, 2.0  # for cancelled tasks to end by themselves
DECIDE = 1.0  # to decide over those that did not, and for what they then do
FORCE = 0.5  # to settle those that are deaf

_LEAVING = Abort(RunStatus.interrupted, CancelAction.interrupt, Cause.shutdown, "the worker shut down")


class DrainingStore(DecisionStore, WorkerStore, Protocol):
    """What a drain needs of the store."""


class Drain:
    """Tasks are cancelled first and decided only if they do not end by themselves: one that finishes
    with `success` while unwinding keeps it. Nothing is ever decided over a run whose code has returned.
    Cancels work all the while.

    One drain for each worker: a second call joins it, and the shortest grace counts.
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
        grace: float,
    ) -> None:
        self._store, self._registry, self._worker = store, registry, worker
        self._delivery, self._settlement, self._notifier = delivery, settlement, notifier
        self._jobs, self._grace = jobs, grace
        self._heeded: DrainWish | None = None
        self._task: asyncio.Task[None] | None = None
        self._until = math.inf
        self._waiting: asyncio.Timeout | None = None

    @property
    def begun(self) -> bool:
        return self._task is not None

    @property
    def until(self) -> float:
        """When the grace ends, or has ended, on the clock of the event loop."""
        return self._until

    async def run(self, grace: float | None) -> None:
        """Returns when no run is left here, at the latest 4 s after `grace` (s; None = the
        setting). Goes on if its caller is cancelled. Twice is harmless."""
        loop = asyncio.get_running_loop()
        seconds = self._grace if grace is None else grace
        self._shorten(loop.time() + seconds)
        if self._task is None or self._task.done():
            self._task = begin_soon(self._run(min(UNWIND, max(seconds, LEAST_UNWIND))))
        await asyncio.shield(self._task)

    async def request(self, epoch: int | None, grace: float | None) -> list[AskedToDrain]:
        """Request another worker, or all, to drain: each reads the request from the store at its next tick;
        a hint starts that tick at once. Raises StoreUnavailable."""
        requested = await self._store.ask_to_drain(epoch, grace=grace)
        for peer in requested:
            self._notifier.notify_worker(peer.epoch, Signal(kind="claim"))
        return requested

    def heed(self, wish: DrainWish) -> None:
        """Somebody has asked this worker to drain: begin, or join what is under way, once for each wish."""
        if wish != self._heeded:
            self._heeded = wish
            self._jobs.spawn(self.run(wish.grace), "the drain that was asked for")

    def end_grace(self) -> None:
        """End the grace now. Without effect before a drain has begun."""
        if self.begun:
            self._shorten(asyncio.get_running_loop().time())

    def _shorten(self, until: float) -> None:
        self._until = min(self._until, until)
        if self._waiting is not None and not self._waiting.expired():
            self._waiting.reschedule(self._until)

    async def _run(self, unwind: float) -> None:
        self._worker.drain()
        await self._take_leave()
        entries = self._registry.unsettled()
        await self._decide_over(entry for entry in entries if entry.record.task is None and entry.stopped)
        await self._finished_by_themselves()
        await self._within(FAREWELL, self._look_at_the_waiting())
        for entry in self._registry.unsettled():
            if entry.abort is None and not entry.lost:
                entry.warn(_LEAVING)
        await self._within(unwind, _all_ended(self._registry.unsettled(), reported=True))
        await self._decide_over(self._registry.unsettled())
        await self._within(DECIDE, _all_ended(self._registry.unsettled()))
        for entry in self._registry.unsettled():
            self._tell_who_came_late(entry)
            if entry.stopped or entry.own is None:  # the store did not let it end: that is owed now
                self._settlement.conclude_soon(entry, None)
            else:
                self._settlement.force(entry)
        await self._within(FORCE, _all_ended(self._registry.unsettled()))

    def _tell_who_came_late(self, entry: Entry) -> None:
        """The answer to its admission came after all the others were told: its task is to stop as well, and
        that is what the run ends with."""
        if entry.abort is None and entry.warned is None and not entry.lost:
            entry.warn(_LEAVING)
            entry.unwritten = _LEAVING if entry.open and entry.outcome is None else None

    async def _within(self, seconds: float, work: Awaitable[T]) -> T | None:
        at = min(asyncio.get_running_loop().time() + seconds, self._until + DRAINED)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(at):
                return await work
        return None

    # -- the grace

    async def _finished_by_themselves(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._until) as self._waiting:
                await _all_ended(self._registry.unsettled())
        self._waiting = None

    # -- no more runs

    async def _take_leave(self) -> None:
        """The store refuses this worker's admissions from here on; those that were faster have come
        back, and had the time to be launched."""
        handed: list[HandedOver] = []
        if self._worker.live:
            handed = await self._within(FAREWELL, self._tell_store()) or []
        await self._within(FAREWELL, self._registry.all_admitted())
        for _ in range(2):  # the caller of an admission goes on, and what follows on the end of a task
            await asyncio.sleep(0)
        if handed:
            await self._within(FAREWELL, self._look_at_the_waiting())

    async def _tell_store(self) -> list[HandedOver]:
        """Whom it hands over is hinted to everybody: a hint that is lost leaves it to their ticks."""
        try:
            handed = await self._store.drain(self._worker.epoch)
            peers = await self._store.workers(counted=False) if handed else []
        except CoordinatorError as error:
            logger.warning("The store does not know that this worker drains: %s", error)
            return []
        for peer in peers:
            if peer.state is WorkerState.live:
                for thread_id in dict.fromkeys(run.thread_id for run in handed):
                    self._notifier.notify_worker(peer.epoch, Signal(kind="claim", thread_id=thread_id))
        return handed

    async def _look_at_the_waiting(self) -> None:
        """Their rows say who was handed over, also where the answer of the store was lost."""
        try:
            for entry in self._registry.unsettled():
                if entry.own is None:
                    await self._delivery.look(entry.record.run_id)
        except CoordinatorError as error:
            logger.warning("Runs that wait could not be read: %s", error)

    # -- decisions

    async def _decide_over(self, entries: Iterable[Entry]) -> None:
        await self._within(DECIDE, asyncio.gather(*(self._end(entry) for entry in entries)))

    async def _end(self, entry: Entry) -> None:
        if entry.settled.is_set() or entry.lost or entry.returned:
            return
        if entry.stopped and not entry.open:  # decided by its own code, be it only on the record
            self._settlement.conclude_soon(entry, None)
            return
        try:
            if entry.own is None:  # where it was handed over, it goes on elsewhere
                await self._decide(entry, while_waiting=True)
            if entry.own is not None and entry.open:
                await self._decide(entry, while_waiting=False)
        except CoordinatorError as error:
            logger.warning("Run %r could not be ended at shutdown: %s", entry.record.run_id, error)

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
            self._delivery.read(entry, decision)
        elif decision is not None:
            await self._delivery.deliver(decision)


async def _all_ended(entries: list[Entry], *, reported: bool = False) -> None:
    await asyncio.gather(*(_ended(entry, reported) for entry in entries))


async def _ended(entry: Entry, reported: bool) -> None:
    """Settled, or its task has stopped and nobody settles it. `reported`: a caller who made the task may
    still say how it has ended, so wait for that as well."""
    settled = begin_soon(entry.settled.wait())
    try:
        if (task := entry.record.task) is not None:
            await asyncio.wait((task, settled), return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(0)  # what follows on the end of the task
        if entry.settling is not None or (reported and task is not None and entry.open):
            await settled
    finally:
        settled.cancel()
