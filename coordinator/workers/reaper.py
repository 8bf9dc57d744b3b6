"""The reaper: ends the runs of dead workers and of nobody, and finishes their rollbacks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from coordinator.assistants.ports import ThreadStates
from coordinator.clock import boottime
from coordinator.errors import CoordinatorError, StaleFence
from coordinator.lock import SlotLock
from coordinator.notifier import Notifier, Signal
from coordinator.runs.incarnation import Incarnation
from coordinator.runs.jobs import Jobs
from coordinator.runs.settlement import Settlement
from coordinator.telemetry import Telemetry
from coordinator.telemetry.events import PeerBuried, RunRecovered
from stores.base import OwnershipStore, WorkerStore
from stores.rows import Orphan, Outcome, Ownership, WorkerRow

logger = logging.getLogger(__name__)

ORPHANED = "The worker that ran this is gone; the run did not reach an end of its own."


class ReapingStore(WorkerStore, OwnershipStore, Protocol):
    """What the reaper needs of the store."""


class Reaper:
    """Burying a peer needs two kinds of evidence: its heartbeat did not move for its own ttl on this
    worker's clock, and the store's clock says that its lease is over. On one host the operating
    system's word that the process is gone is enough."""

    def __init__(
        self,
        store: ReapingStore,
        *,
        worker: Incarnation,
        settlement: Settlement,
        states: ThreadStates,
        slots: SlotLock,
        notifier: Notifier,
        jobs: Jobs,
        telemetry: Telemetry,
        clock: Callable[[], float] = boottime,
    ) -> None:
        self._store, self._worker, self._settlement, self._states = store, worker, settlement, states
        self._slots, self._notifier, self._jobs = slots, notifier, jobs
        self._telemetry, self._clock = telemetry, clock
        self._watched: dict[int, tuple[int, float]] = {}
        self._adopted: dict[str, Orphan] = {}
        self._reaping = asyncio.Lock()

    async def sweep(self) -> None:
        await self.reap(error=ORPHANED, before=None)

    async def reap(self, *, error: str, before: str | None) -> list[Orphan]:
        """Bury who is dead, end what nobody owns; answer what this call ended. Two reapers never
        report the same run. Goes on if its caller is cancelled: what a sweep has adopted is ours."""
        return await asyncio.shield(self._jobs.spawn(self._reap(error, before), "looking for dead workers"))

    async def _reap(self, error: str, before: str | None) -> list[Orphan]:
        async with self._reaping:
            me = self._worker.epoch
            await self._recover_all(tuple(self._adopted.values()))
            for peer in await self._store.workers():
                if peer.epoch != me:
                    await self._look_at(peer, me)
            orphans = await self._store.sweep(by=me, error=error, before=before)
            await self._recover_all(orphans)
            return orphans

    async def _recover_all(self, orphans: Sequence[Orphan]) -> None:
        """One that cannot be recovered now stands in nobody's way: it comes up again next time."""
        for orphan in orphans:
            try:
                await self._recover(orphan)
            except CoordinatorError as error:
                logger.warning("Recovery of run %r: %s", orphan.run_id, error)

    async def _look_at(self, peer: WorkerRow, me: int) -> None:
        proven = self._store.proven_dead(peer)
        if not proven and not (peer.expired and self._silent(peer)):
            return
        if await self._store.bury(peer, by=me, proven=proven):
            self._watched.pop(peer.epoch, None)
            self._telemetry.emit(PeerBuried(peer.epoch, me))

    def _silent(self, peer: WorkerRow) -> bool:
        """Has its heartbeat stood still for its own ttl, as far as this process has watched?"""
        seen = self._watched.get(peer.epoch)
        now = self._clock()
        if seen is None or seen[0] != peer.hb_seq:
            self._watched[peer.epoch] = (peer.hb_seq, now)
            return False
        return now - seen[1] >= peer.ttl_ms / 1000

    async def _recover(self, orphan: Orphan) -> None:
        if orphan.adopted is not None:
            self._adopted[orphan.run_id] = orphan  # until it is settled: the store may go away meanwhile
            await self._undo(orphan, orphan.adopted)
            del self._adopted[orphan.run_id]
        self._telemetry.emit(
            RunRecovered(orphan.run_id, orphan.thread_id, orphan.status.value, orphan.dead_epoch)
        )
        signal = Signal(kind="settled", thread_id=orphan.thread_id, run_id=orphan.run_id)
        self._notifier.notify_thread(orphan.thread_id, signal)
        await self._settlement.claim(orphan.thread_id)

    async def _undo(self, orphan: Orphan, own: Ownership) -> None:
        """Finish the rollback that its owner did not live to finish. Raises StoreUnavailable."""
        state, error, values = "done", None, None
        try:
            values = await self._states.restore(own.thread_id, own.run_id, orphan.rollback_ref, own.fence)
        except StaleFence:
            return  # adopted by yet another worker
        except CoordinatorError:
            raise
        except Exception as failure:
            logger.exception("Rolling back run %r of dead epoch %s failed", own.run_id, orphan.dead_epoch)
            state, error = "failed", f"Rollback failed: {type(failure).__name__}: {failure}"
        finish = await self._store.settle(own, Outcome(orphan.status, error, values=values), state)
        self._slots.release(own.thread_id, own.run_id, fence=own.fence)
        await self._settlement.pass_on(own.thread_id, finish.next_home)
