"""The reaper: ends orphaned runs or continues them, and finishes the rollbacks of dead workers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from coordinator.assistants.undo import Undo
from coordinator.clock import boottime
from coordinator.errors import CoordinatorError, StaleFence, StoreUnavailable
from coordinator.lock import SlotLock
from coordinator.notifier import Notifier, Signal
from coordinator.runs.children import hint_at_children
from coordinator.runs.incarnation import Incarnation
from coordinator.runs.jobs import Jobs
from coordinator.runs.latch import Latch
from coordinator.runs.outcomes import text_of
from coordinator.runs.thread_queue import ThreadQueue
from coordinator.telemetry import Telemetry
from coordinator.telemetry.events import PeerBuried, RunRecovered
from coordinator.workers.identity import name_of
from stores.base import OwnershipStore, WorkerStore
from stores.errors import RowLocked
from stores.rows import ANY_WORKER, Orphan, Outcome, Ownership, WorkerRow
from stores.tasks import AnyFuture

logger = logging.getLogger(__name__)

ORPHANED = "The worker that executed this run is dead or lost its lease before the run ended."


class ReapingStore(WorkerStore, OwnershipStore, Protocol):
    """Store operations that the reaper uses."""


class Reaper:
    """Declares a peer dead on two pieces of evidence: its heartbeat did not change for the peer's own ttl on
    this worker's clock, and its lease has expired on the store's clock. Each of these suffices alone: no
    heartbeat for twice the ttl, or, on the same host, proof by the operating system that the process has
    exited."""

    def __init__(
        self,
        store: ReapingStore,
        *,
        worker: Incarnation,
        queue: ThreadQueue,
        undo: Undo,
        slots: SlotLock,
        notifier: Notifier,
        jobs: Jobs,
        telemetry: Telemetry,
        needed: bool = True,
        clock: Callable[[], float] = boottime,
    ) -> None:
        self._store, self._worker, self._queue, self._undoing = store, worker, queue, undo
        self._slots, self._notifier, self._jobs = slots, notifier, jobs
        self._telemetry, self._clock = telemetry, clock
        self._last_heartbeats: dict[int, tuple[int, float]] = {}
        """By epoch: `hb_seq`, and when this process first read it (on `clock`)."""
        self._recovering: dict[tuple[str, Ownership | None], asyncio.Future[None]] = {}
        self._reaping = asyncio.Lock()
        self._swept = Latch()
        self._first: AnyFuture | None = None
        self.swept_at: float | None = None
        """When the last sweep was committed, on `clock`."""
        self.continue_run: Callable[[Ownership], Awaitable[bool]] = _not_continued
        """Executes a further attempt of a run. Idempotent."""
        if not needed:
            self._swept.set()

    async def first_sweep(self) -> None:
        """Returns after this process has completed one sweep, its own or an operator's: must be awaited
        before the first admission. Rollbacks of orphans may still be in progress. Raises StoreUnavailable."""
        if self._swept.is_set():
            return
        if self._first is None or self._first.done():
            self._first = self._jobs.spawn(
                self._sweep(ORPHANED, None), "the sweep before the first admission"
            )
        try:
            await asyncio.shield(self._first)
        except StoreUnavailable:
            raise
        except Exception:  # noqa: BLE001 - logged by the job; one bad row must not block admissions
            self._swept.set()

    async def sweep(self) -> None:
        """As `reap`, but does not wait for rollbacks: one that hangs must not stop further sweeps."""
        await asyncio.shield(self._jobs.spawn(self._sweep(ORPHANED, None), "the sweep for dead workers"))

    async def reap(self, *, error: str, before: str | None) -> list[Orphan]:
        """Declares dead workers dead, ends orphaned runs, waits for their rollbacks, and returns the runs
        that this call ended. `before` limits it to runs created earlier. Two reapers never return the same
        run. Continues if its caller is cancelled, because runs that it adopted must be finished here."""
        return await asyncio.shield(self._jobs.spawn(self._reap(error, before), "the sweep for dead workers"))

    async def _reap(self, error: str, before: str | None) -> list[Orphan]:
        orphans, recoveries = await self._sweep(error, before)
        if recoveries:
            await asyncio.wait(recoveries)
        return orphans

    async def _sweep(self, error: str, before: str | None) -> tuple[list[Orphan], list[asyncio.Future[None]]]:
        async with self._reaping:
            me = self._worker.epoch
            peers = await self._store.workers(counted=False)
            self._last_heartbeats = {
                p.epoch: self._last_heartbeats[p.epoch] for p in peers if p.epoch in self._last_heartbeats
            }
            dead, orphans = list[WorkerRow](), list[Orphan]()
            try:
                for peer in peers:
                    if peer.epoch != me and await self._examine_unless_locked(peer, me):
                        dead.append(peer)
                orphans = await self._store.sweep(by=me, error=error, before=before)
            finally:
                for peer in dead:
                    its = [orphan for orphan in orphans if orphan.dead_epoch == peer.epoch]
                    continued = sum(orphan.attempt > 0 for orphan in its)
                    ended = len(its) - continued
                    self._telemetry.emit(PeerBuried(peer.epoch, me, name_of(peer), ended, continued))
            self._swept.set()
            self.swept_at = self._clock()
            self.hint_at_children_of(orphans)
            return orphans, [self._recover_soon(orphan) for orphan in orphans]

    def epoch_ended(self, orphans: Iterable[Orphan]) -> None:
        """Announces runs that ended because this worker has given up its epoch."""
        orphans = list(orphans)
        self.hint_at_children_of(orphans)
        for orphan in orphans:
            if orphan.adopted is None:
                self._announce(orphan)

    def hint_at_children_of(self, orphans: Iterable[Orphan]) -> None:
        """Notifies the workers of children of ended orphans. A child may run on any worker."""
        for orphan in orphans:
            hint_at_children(self._notifier, self._telemetry, orphan.children)

    def _recover_soon(self, orphan: Orphan) -> asyncio.Future[None]:
        """Starts the recovery of one orphan, or returns the one in progress. A recovery that fails does not
        delay others: the next sweep retries it."""
        key = orphan.run_id, orphan.adopted
        recovery = self._recovering.get(key)
        if recovery is None:
            recovery = self._jobs.spawn(self._recover(orphan), f"recovery of run {orphan.run_id!r}")
            self._recovering[key] = recovery
            recovery.add_done_callback(lambda _: self._recovering.pop(key, None))
        return recovery

    async def _examine_unless_locked(self, peer: WorkerRow, me: int) -> bool:
        """As `_examine`. If the peer's row is locked, logs that and returns False, so that the sweep
        continues with the other peers."""
        try:
            return await self._examine(peer, me)
        except RowLocked as locked:
            logger.warning(
                "%s is dead, but its row is locked, so its runs are not ended yet; the next sweep retries:"
                " %s",
                name_of(peer),
                locked,
            )
            return False

    async def _examine(self, peer: WorkerRow, me: int) -> bool:
        """Returns True if this call declared `peer` dead."""
        proven = self._store.proven_dead(peer)
        # Measured in every sweep, because silence counts from the last heartbeat, not from the lease's end.
        silent, ttl = self._silent_for(peer), peer.ttl_ms / 1000
        # If the store's clock was set back (or a new primary's clock is behind), leases expire too late
        # there.
        silent_twice_the_ttl = silent >= 2 * ttl
        if not proven and not silent_twice_the_ttl and not (peer.expired and silent >= ttl):
            return False
        declared_dead = await self._store.fence_worker(peer, by=me, proven=proven or silent_twice_the_ttl)
        if declared_dead:
            self._last_heartbeats.pop(peer.epoch, None)
        return declared_dead

    def _silent_for(self, peer: WorkerRow) -> float:
        """Seconds since this process first read the peer's current heartbeat."""
        seen = self._last_heartbeats.get(peer.epoch)
        now = self._clock()
        if seen is None or seen[0] != peer.hb_seq:
            self._last_heartbeats[peer.epoch] = (peer.hb_seq, now)
            return 0.0
        return now - seen[1]

    async def _recover(self, orphan: Orphan) -> None:
        if orphan.attempt and orphan.adopted is not None:
            await self.continue_run(orphan.adopted)  # until it has begun, the next sweep returns it again
            return
        if orphan.adopted is not None and not await self._undo(orphan, orphan.adopted):
            return  # the next sweep returns it again, as long as this worker has it adopted
        self._announce(orphan)
        signal = Signal(kind="settled", thread_id=orphan.thread_id, run_id=orphan.run_id)
        self._notifier.notify_thread(orphan.thread_id, signal)
        await self._queue.dispatch_next(orphan.thread_id, ANY_WORKER)
        if orphan.rollback_ref is not None:
            await self._undoing.forget(orphan.run_id, orphan.rollback_ref)

    def _announce(self, orphan: Orphan) -> None:
        self._telemetry.emit(
            RunRecovered(orphan.run_id, orphan.thread_id, orphan.status.value, orphan.dead_epoch)
        )

    async def _undo(self, orphan: Orphan, own: Ownership) -> bool:
        """Finishes the rollback of a dead worker's run. Returns False if it must be retried, or another epoch
        has adopted the run. Raises StoreUnavailable: then it stays adopted until the next sweep."""
        state, error, values = "done", None, None
        try:
            values = await self._undoing.restore(own, orphan.rollback_ref)
        except StaleFence:  # adopted by another worker, or by another epoch of this one
            return False
        except CoordinatorError:
            raise
        except Exception as failure:
            logger.exception(
                "The rollback of run %r, whose worker (epoch %s) is dead, failed",
                own.run_id,
                orphan.dead_epoch,
            )
            if await self._store.readopt(own) is not None:
                return False
            state, error = "failed", f"Rollback failed: {text_of(failure)}"
        finish = await self._store.settle(own, Outcome(orphan.status, error, values=values), state)
        self._slots.release(own.thread_id, own.run_id, fence=own.fence)
        await self._queue.dispatch_next(own.thread_id, finish.next_home)
        return not finish.lost


async def _not_continued(own: Ownership) -> bool:
    """For a process without assistants."""
    del own
    return False
