"""Hands a stopped run over to the workers that may continue it, when this worker drains."""

from __future__ import annotations

import logging
from typing import Protocol

from coordinator.errors import CoordinatorError
from coordinator.notifier import Notifier, Signal
from coordinator.runs.entry import Entry
from coordinator.runs.incarnation import Incarnation
from coordinator.runs.jobs import Jobs
from coordinator.telemetry import Telemetry
from coordinator.telemetry.events import RunHandedOver
from stores.base import OwnershipStore, WorkerStore
from stores.outbox import Outbox
from stores.rows import Decision, Ownership
from stores.states import OPEN, WorkerState

logger = logging.getLogger(__name__)


class HandingStore(OwnershipStore, WorkerStore, Protocol):
    """Store operations of a hand-over."""


class Flushing(Protocol):
    """The writer of events."""

    async def flushed(self, own: Ownership) -> None: ...


class HandOvers:
    def __init__(
        self,
        store: HandingStore,
        *,
        events: Flushing,
        notifier: Notifier,
        worker: Incarnation,
        jobs: Jobs,
        outbox: Outbox,
        telemetry: Telemetry,
    ) -> None:
        self._store, self._events, self._notifier, self._worker = store, events, notifier, worker
        self._jobs, self._outbox, self._telemetry = jobs, outbox, telemetry
        self._unhinted: Ownership | None = None

    async def write(self, entry: Entry, own: Ownership) -> Decision | None:
        """Marks the run as handed over and hints at it, unless it was decided. Returns how it stands; None =
        lost. While the store is unavailable the write is queued until the lease expires.

        Its log is written first: from the adoption on, the log refuses entries of this worker."""
        await self._events.flushed(own)
        standing = await self._outbox.deliver(
            own.run_id, own.epoch, "the hand-over of a run", lambda: self._store.hand_over(own)
        )
        if standing is not None and standing.status in OPEN:
            self._telemetry.emit(RunHandedOver(own.run_id, own.thread_id, entry.attempt))
            self._hint_soon(own)
        return standing

    def _hint_soon(self, own: Ownership) -> None:
        """One hint for all runs that are handed over until the peers have been read: it triggers a sweep."""
        if self._unhinted is None:
            self._jobs.spawn(self._hint(), "hints about runs that were handed over")
        self._unhinted = own

    async def _hint(self) -> None:
        """Best effort: without it the peers' next sweeps find the runs."""
        try:
            peers = await self._store.workers(counted=False)
        except CoordinatorError as error:
            logger.warning("Peers could not be notified of runs that were handed over: %s", error)
            peers = []
        own, self._unhinted = self._unhinted, None
        for peer in peers:
            if own is not None and peer.state is WorkerState.live and peer.epoch != self._worker.epoch:
                signal = Signal(kind="claim", thread_id=own.thread_id, run_id=own.run_id)
                self._notifier.notify_worker(peer.epoch, signal)
