"""The reaper: ends orphaned runs, and finishes the rollbacks of dead workers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any, Protocol

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
from coordinator.runs.waiting_line import WaitingLine
from coordinator.telemetry import Telemetry
from coordinator.telemetry.events import PeerBuried, RunRecovered
from coordinator.workers.identity import name_of
from stores.base import OwnershipStore, WorkerStore
from stores.errors import RowLocked
from stores.rows import ANY_WORKER, Orphan, Outcome, Ownership, WorkerRow

logger = logging.getLogger(__name__)

ORPHANED = "The worker that ran this is gone or lost its lease; the run did not reach an end of its own."


class ReapingStore(WorkerStore, OwnershipStore, Protocol):
    """What the reaper needs of the store."""


class Reaper:
    """Burying a peer needs two kinds of evidence: its heartbeat did not move for its own ttl on this
    worker's clock, and the store's clock says that its lease is over. Twice its ttl on this worker's
    clock is enough; so is, on one host, the operating system's word that the process is gone."""

    def __init__(
        self,
        store: ReapingStore,
        *,
        worker: Incarnation,
        line: WaitingLine,
        undo: Undo,
        slots: SlotLock,
        notifier: Notifier,
        jobs: Jobs,
        telemetry: Telemetry,
        needed: bool = True,
        clock: Callable[[], float] = boottime,
    ) -> None:
        self._store, self._worker, self._line, self._undoing = store, worker, line, undo
        self._slots, self._notifier, self._jobs = slots, notifier, jobs
        self._telemetry, self._clock = telemetry, clock
        self._watched: dict[int, tuple[int, float]] = {}
        self._recovering: dict[tuple[str, Ownership | None], asyncio.Future[None]] = {}
        self._reaping = asyncio.Lock()
        self._swept = Latch()
        self._first: asyncio.Future[Any] | None = None
        self.swept_at: float | None = None
        """When the last sweep was committed, on `clock`."""
        if not needed:
            self._swept.set()

    async def first_sweep(self) -> None:
        """Before the first admission: return when this process has looked for the dead once, be it for
        an operator. What was found may still be rolling back. Raises StoreUnavailable."""
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
        except Exception:  # noqa: BLE001 - logged by the job; one bad row must not close the doors
            self._swept.set()

    async def sweep(self) -> None:
        """As `reap`, and waits for no rollback: one that hangs must not make the reaper blind."""
        await asyncio.shield(self._jobs.spawn(self._sweep(ORPHANED, None), "looking for dead workers"))

    async def reap(self, *, error: str, before: str | None) -> list[Orphan]:
        """Bury who is dead, end what nobody owns; answer what this call ended. Two reapers never
        report the same run. Goes on if its caller is cancelled: what a sweep has adopted is ours."""
        return await asyncio.shield(self._jobs.spawn(self._reap(error, before), "looking for dead workers"))

    async def _reap(self, error: str, before: str | None) -> list[Orphan]:
        orphans, recoveries = await self._sweep(error, before)
        if recoveries:
            await asyncio.wait(recoveries)
        return orphans

    async def _sweep(self, error: str, before: str | None) -> tuple[list[Orphan], list[asyncio.Future[None]]]:
        async with self._reaping:
            me = self._worker.epoch
            peers = await self._store.workers(counted=False)
            self._watched = {p.epoch: self._watched[p.epoch] for p in peers if p.epoch in self._watched}
            buried, orphans = list[WorkerRow](), list[Orphan]()
            try:
                for peer in peers:
                    if peer.epoch != me and await self._look_at_one(peer, me):
                        buried.append(peer)
                orphans = await self._store.sweep(by=me, error=error, before=before)
            finally:
                for peer in buried:
                    ended = sum(orphan.dead_epoch == peer.epoch for orphan in orphans)
                    self._telemetry.emit(PeerBuried(peer.epoch, me, name_of(peer), ended))
            self._swept.set()
            self.swept_at = self._clock()
            self.hint_at_children_of(orphans)
            return orphans, [self._recover_soon(orphan) for orphan in orphans]

    def hint_at_children_of(self, orphans: Iterable[Orphan]) -> None:
        """Children of orphans that were ended may run anywhere."""
        for orphan in orphans:
            hint_at_children(self._notifier, orphan.children)

    def _recover_soon(self, orphan: Orphan) -> asyncio.Future[None]:
        """One that cannot be recovered now stands in nobody's way: it comes up again next time."""
        this = orphan.run_id, orphan.adopted
        under_way = self._recovering.get(this)
        if under_way is None:
            under_way = self._jobs.spawn(self._recover(orphan), f"recovery of run {orphan.run_id!r}")
            self._recovering[this] = under_way
            under_way.add_done_callback(lambda _: self._recovering.pop(this, None))
        return under_way

    async def _look_at_one(self, peer: WorkerRow, me: int) -> bool:
        """A peer whose row is locked comes up again next time; the others are looked at all the same."""
        try:
            return await self._look_at(peer, me)
        except RowLocked as locked:
            logger.warning("%s is dead and cannot be buried now: %s", name_of(peer), locked)
            return False

    async def _look_at(self, peer: WorkerRow, me: int) -> bool:
        """True = it is buried, by this call."""
        proven = self._store.proven_dead(peer)
        # Looked at each time: the watch begins with the last heartbeat, not with the end of the lease.
        silent, ttl = self._silent_for(peer), peer.ttl_ms / 1000
        # Where the store's clock was set back, or that of a new primary is behind, a lease seems to last.
        outwaited = silent >= 2 * ttl
        if not proven and not outwaited and not (peer.expired and silent >= ttl):
            return False
        buried = await self._store.bury(peer, by=me, proven=proven or outwaited)
        if buried:
            self._watched.pop(peer.epoch, None)
        return buried

    def _silent_for(self, peer: WorkerRow) -> float:
        """Seconds for which its heartbeat has stood still, as far as this process has watched."""
        seen = self._watched.get(peer.epoch)
        now = self._clock()
        if seen is None or seen[0] != peer.hb_seq:
            self._watched[peer.epoch] = (peer.hb_seq, now)
            return 0.0
        return now - seen[1]

    async def _recover(self, orphan: Orphan) -> None:
        if orphan.adopted is not None and not await self._undo(orphan, orphan.adopted):
            return  # the store answers it again in the next sweep, as long as it is adopted here
        self._telemetry.emit(
            RunRecovered(orphan.run_id, orphan.thread_id, orphan.status.value, orphan.dead_epoch)
        )
        signal = Signal(kind="settled", thread_id=orphan.thread_id, run_id=orphan.run_id)
        self._notifier.notify_thread(orphan.thread_id, signal)
        await self._line.pass_on(orphan.thread_id, ANY_WORKER)

    async def _undo(self, orphan: Orphan, own: Ownership) -> bool:
        """Finish the rollback that its owner did not live to finish. False = not yet, or not ours any
        more. Raises StoreUnavailable: then it stays adopted until the next sweep."""
        state, error, values = "done", None, None
        try:
            values = await self._undoing.restore(own, orphan.rollback_ref)
        except StaleFence:  # adopted by yet another worker, or by another epoch of this one
            return False
        except CoordinatorError:
            raise
        except Exception as failure:
            logger.exception("Rolling back run %r of dead epoch %s failed", own.run_id, orphan.dead_epoch)
            if await self._store.readopt(own) is not None:
                return False
            state, error = "failed", f"Rollback failed: {text_of(failure)}"
        finish = await self._store.settle(own, Outcome(orphan.status, error, values=values), state)
        self._slots.release(own.thread_id, own.run_id, fence=own.fence)
        await self._line.pass_on(own.thread_id, finish.next_home)
        return True
