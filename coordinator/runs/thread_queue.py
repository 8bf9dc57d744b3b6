"""Dispatches the next run of a thread's queue when the thread becomes free."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from coordinator.errors import CoordinatorError, EpochDead, StoreUnavailable
from coordinator.lock import SlotLock
from coordinator.notifier import Notifier, Signal
from coordinator.runs.capacity import CLAIMS_AT_ONCE, Capacity, RunningLimits
from coordinator.runs.entry import Entry
from coordinator.runs.incarnation import Incarnation
from coordinator.runs.jobs import Jobs
from coordinator.runs.registry import Registry
from coordinator.schemas import RunStatus
from stores.base import AdmissionStore, OwnershipStore
from stores.claims import Claimable, ClaimableQuery
from stores.outbox import Outbox
from stores.rows import ANY_WORKER, Claimed, Outcome, Ownership

logger = logging.getLogger(__name__)

_PAST = 0.001  # s; a timer may fire this much early, and the store counts microseconds


class ClaimingStore(AdmissionStore, OwnershipStore, Protocol):
    """Store operations of a claim."""


class ThreadQueue:
    """`take_over(own)` executes a claimed run that another worker admitted; returns False if it cannot."""

    def __init__(
        self,
        store: ClaimingStore,
        registry: Registry,
        *,
        slots: SlotLock,
        notifier: Notifier,
        worker: Incarnation,
        outbox: Outbox,
        jobs: Jobs,
    ) -> None:
        self._store, self._registry, self._slots, self._notifier = store, registry, slots, notifier
        self._worker, self._outbox, self._jobs = worker, outbox, jobs
        self.take_over: Callable[[Ownership], Awaitable[bool]] = _not_taken_over
        self.places = Capacity(RunningLimits())
        """Of this worker, for runs that it takes over."""
        self.passed_over = False
        """A run may have been left in its queue, because this worker has no place for it."""
        self.claim_soon: Callable[[], None] = _nothing_to_claim
        """Triggers `claim_for_others`."""

    async def dispatch_next(self, thread_id: str, next_home: int | None) -> None:
        """Dispatches the head of the queue to `next_home`, the worker that admitted it. ANY_WORKER: this
        worker claims if it can, else notifies the workers that can; also used if the caller does not know
        which run is next. Best effort: the tick repeats what fails."""
        if next_home is None:
            return
        if next_home not in (ANY_WORKER, self._worker.epoch):
            self._hint(next_home, thread_id)
            return
        try:
            if not await self.claim(thread_id) and next_home == ANY_WORKER:
                for epoch in await self._store.claimants(thread_id):
                    self._hint(epoch, thread_id)
        except CoordinatorError as error:
            logger.warning(
                "The next run of thread %r could not be dispatched; the next tick retries it: %s",
                thread_id,
                error,
            )

    async def dispatch(self, thread_id: str) -> None:
        """Notifies workers that may execute the head of the queue, which none of them has admitted: each
        claims what is free, the oldest first, within its limits. Best effort: their ticks find it."""
        try:
            for epoch in await self._store.claimants(thread_id):
                self._notifier.notify_worker(epoch, Signal(kind="claim"))
        except CoordinatorError as error:
            logger.warning(
                "Workers could not be notified of a run on thread %r; their next ticks find it: %s",
                thread_id,
                error,
            )

    def _hint(self, epoch: int, thread_id: str) -> None:
        if epoch != self._worker.epoch:
            self._notifier.notify_worker(epoch, Signal(kind="claim", thread_id=thread_id))

    def claim_when_due(self, entry: Entry, seconds: float) -> None:
        """Claims the thread after `seconds`, when a delayed run of this worker joins the queue. If the clock
        of the store was set back meanwhile, the tick claims it later."""
        thread_id = entry.record.thread_id

        def due() -> None:
            self._jobs.spawn(self.claim(thread_id), f"claiming thread {thread_id!r}")

        entry.call_later("due", seconds + _PAST, due)

    def claims_at_once(self, thread_id: str) -> bool:
        """Whether `claim` claims: this worker has a run in that queue, or places for any run."""
        return not self.places.limited or self._registry.has_waiting(thread_id)

    async def claim(self, thread_id: str) -> bool:
        """Takes the thread for the head of its queue, if it is free and this worker may execute the head.
        Returns whether the head holds it now. With limits, a run of which this worker is not the home is
        left to `claim_for_others`, which is requested. Raises StoreUnavailable; then the claim is also queued
        until it succeeds: it may have been committed, and for a portable run only its response shows that."""
        if not self.claims_at_once(thread_id):
            self.claim_soon()
            return False
        return await self._claim_or_queue(thread_id)

    async def claim_for_others(self) -> None:
        """Claims runs without a home within the limits of this worker, users in turn. What exceeds a limit
        stays in its queue: another worker may execute it. Children of the runs that this worker executes need
        no place. Raises StoreUnavailable."""
        vain = 0
        while vain < 2 and (query := self._next_claims()) is not None:
            runs = await self._store.claimable(query, epoch=self._worker.epoch)
            if not runs:
                break
            claimed = [await self._claim_if_fits(run) for run in runs]
            vain = 0 if any(claimed) else vain + 1  # other workers were faster
        if self.passed_over:
            await self._claim_children()

    async def _claim_children(self) -> None:
        for run in await self._store.claimable_children(CLAIMS_AT_ONCE, epoch=self._worker.epoch):
            await self._claim_or_queue(run.thread_id)

    def _next_claims(self) -> ClaimableQuery | None:
        query = self.places.next_claims()
        self.passed_over |= query is None or bool(query.full_users or query.full_assistants)
        return query

    async def _claim_if_fits(self, run: Claimable) -> bool:
        if not self.places.fits(run.user_id, run.assistant_id):
            self.passed_over = True
            return False
        with self.places.claiming(run.user_id, run.assistant_id):
            return await self._claim_or_queue(run.thread_id)

    async def _claim_or_queue(self, thread_id: str) -> bool:
        try:
            return await self._claim(thread_id)
        except StoreUnavailable:
            self._outbox.enqueue(f"the claim of thread {thread_id!r}", lambda: self._claim(thread_id))
            raise

    async def _claim(self, thread_id: str) -> bool:
        epoch = self._worker.epoch
        try:
            claimed = await self._store.claim(thread_id, epoch=epoch)
        except EpochDead as error:
            self._worker.fenced(epoch, str(error))
            return False
        if claimed is None:
            return False
        await self.taken(thread_id, claimed, epoch)
        return True

    async def taken(self, thread_id: str, claimed: Claimed, epoch: int) -> None:
        """Executes the run that has taken the thread for this worker, in this epoch of it."""
        if self._registry.claimed(claimed, epoch):
            self._slots.bind(thread_id, claimed.run_id, fence=claimed.fence)
        else:
            own = Ownership(claimed.run_id, thread_id, epoch, claimed.fence)
            if not await self.take_over(own):
                # A job: this claim may be a queued write, which must not wait for the writes behind it.
                self._jobs.spawn(
                    self._end_foreign(own), f"ending run {own.run_id!r}, which this worker cannot execute"
                )

    async def _end_foreign(self, own: Ownership) -> None:
        """Ends a claimed run that this worker cannot execute."""
        why = "Its worker has ended or drains, and the worker that took it over cannot execute it"
        finish = await self._outbox.deliver(
            own.run_id,
            own.epoch,
            "the end of a foreign run",
            lambda: self._store.finish(own, Outcome(RunStatus.error, why)),
        )
        logger.warning("Run %r: %s", own.run_id, why)
        signal = Signal(kind="settled", thread_id=own.thread_id, run_id=own.run_id)
        self._notifier.notify_thread(own.thread_id, signal)
        await self.dispatch_next(own.thread_id, finish.next_home)


def _nothing_to_claim() -> None:
    """For a process without a tick."""


async def _not_taken_over(own: Ownership) -> bool:
    """For a process without assistants."""
    del own
    return False
