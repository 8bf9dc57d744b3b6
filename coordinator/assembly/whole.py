"""Builds the parts of a manager: the collaborators of runs, the loops of the worker, their callbacks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from coordinator.assembly.runs import RunParts
from coordinator.assembly.shared import Shared
from coordinator.assistants.decorator import Agents
from coordinator.assistants.opening import OpenStorages
from coordinator.assistants.ports import ThreadStates
from coordinator.clock import Clocks
from coordinator.errors import InvalidArgument
from coordinator.event_log import EventLog
from coordinator.event_logs.local import LocalEventLog
from coordinator.lock import SlotLock
from coordinator.locks.local import LocalSlotLock
from coordinator.notifier import Notifier
from coordinator.notifiers.local import LocalNotifier
from coordinator.runs.recovery import Recovery
from coordinator.settings import Settings
from coordinator.telemetry import Hook
from coordinator.workers.deadline import EXIT_WITHIN, Deadline
from coordinator.workers.drain import DRAINED, Drain
from coordinator.workers.expiry import Expiry
from coordinator.workers.health import Examination
from coordinator.workers.lease import Pacemaker
from coordinator.workers.loops import Loops
from coordinator.workers.pacemaker import pacemaker_for
from coordinator.workers.projections import Projector
from coordinator.workers.pruner import Pruner
from coordinator.workers.reaper import Reaper
from coordinator.workers.unclaimed import UnclaimedRuns
from coordinator.workers.watch import Watch
from stores.base import CoordinationStore
from stores.lock_watch import LockWatched
from stores.pruning import Retention
from stores.rows import Orphan, Ownership


class Assembly:
    """Built in the order of their dependencies. Nothing runs before the worker registers."""

    def __init__(
        self,
        store: CoordinationStore,
        settings: Settings,
        *,
        notifier: Notifier | None,
        slots: SlotLock | None,
        event_log: EventLog | None,
        hooks: Iterable[Hook],
        assistants: Agents | None = None,
        pacemaker: Pacemaker | None = None,
        clocks: Clocks | None = None,
    ) -> None:
        _check(store, settings)
        notifier = notifier or LocalNotifier()
        shared = self.shared = Shared(
            store,
            settings,
            notifier=notifier,
            slots=slots or LocalSlotLock(notifier),
            event_log=event_log or LocalEventLog(),
            hooks=hooks,
            assistants=assistants or (),
            clocks=clocks or Clocks(),
        )
        self.storages = OpenStorages(self._kinds)
        self.pacemaker = pacemaker or pacemaker_for(store, settings)
        self.reaper = self._new_reaper()
        self.runs = RunParts(shared, swept=self.reaper.first_sweep)
        self.recovery = Recovery(store, self.reaper, shared.worker)
        self.drain = self._new_drain()
        self.watch = self._new_watch()
        self.projector = self._new_projector()
        self.unclaimed = UnclaimedRuns(store, admit_only=settings.admit_only, clock=shared.clocks.boottime)
        self.examination = self._new_examination()
        self.expiry = self._new_expiry()
        self.pruner = self._new_pruner()
        self.loops = self._new_loops()
        self._bind()

    def _new_reaper(self) -> Reaper:
        shared = self.shared
        return Reaper(
            shared.store,
            worker=shared.worker,
            queue=shared.queue,
            undo=shared.undo,
            slots=shared.slots,
            notifier=shared.notifier,
            jobs=shared.jobs,
            telemetry=shared.telemetry,
            needed=shared.store.shared,
            clock=shared.clocks.boottime,
        )

    def _new_drain(self) -> Drain:
        shared = self.shared
        return Drain(
            shared.store,
            shared.registry,
            worker=shared.worker,
            delivery=self.runs.delivery,
            settlement=self.runs.settlement,
            notifier=shared.notifier,
            jobs=shared.jobs,
            capacity=self.runs.capacity,
            grace=shared.settings.grace,
        )

    def _new_watch(self) -> Watch:
        shared = self.shared
        return Watch(
            shared.store,
            shared.registry,
            worker=shared.worker,
            delivery=self.runs.delivery,
            queue=shared.queue,
            timeouts=self.runs.timeouts,
            drain=self.drain,
            jobs=shared.jobs,
            clock=shared.clocks.boottime,
        )

    def _new_projector(self) -> Projector:
        shared, settings = self.shared, self.shared.settings
        return Projector(
            shared.store,
            worker=shared.worker,
            telemetry=shared.telemetry,
            interval=settings.tick,
            jitter=settings.jitter,
            clock=shared.clocks.boottime,
        )

    def _new_examination(self) -> Examination:
        shared = self.shared
        return Examination(
            shared.store,
            shared.settings,
            worker=shared.worker,
            pacemaker=self.pacemaker,
            notifier=shared.notifier,
            event_log=shared.event_log,
            watch=self.watch,
            reaper=self.reaper,
            outbox=shared.outbox,
            refusals=self.runs.settlement.refusals,
            overdue=self.runs.settlement.overdue,
            projector=self.projector,
            unclaimed=self.unclaimed,
            clock=shared.clocks.boottime,
        )

    def _new_expiry(self) -> Expiry:
        shared, settings = self.shared, self.shared.settings
        return Expiry(
            shared.store,
            shared.registry,
            shared.event_log,
            shared.removal,
            interval=settings.sweep,
            jitter=settings.jitter,
            max_event_bytes=settings.event_log_total_bytes,
            keep_temporary=settings.keep_temporary,
        )

    def _new_pruner(self) -> Pruner:
        settings = self.shared.settings
        keep = Retention(
            settings.keep_runs,
            settings.keep_transitions,
            settings.keep_workers,
            webhooks=settings.keep_webhooks,
        )
        return Pruner(self.shared.store, keep, interval=settings.prune, jitter=settings.jitter)

    def _new_loops(self) -> Loops:
        shared = self.shared
        return Loops(
            shared.settings,
            worker=shared.worker,
            watch=self.watch,
            reaper=self.reaper,
            unclaimed=self.unclaimed,
            notifier=shared.notifier,
            telemetry=shared.telemetry,
        )

    # -- callbacks

    def _bind(self) -> None:
        worker = self.shared.worker
        if self.pacemaker.stall is not None:
            self.pacemaker.stall.run_of_task = self.shared.registry.run_of_task
        worker.on_registered, worker.on_fenced = self._registered, self._fenced
        worker.on_ended, worker.dropped_runs_stopped = self._ended, self._dropped_runs_stopped
        self.shared.queue.take_over = self.reaper.continue_run = self._take_over
        self.watch.sweep_soon, self.loops.record_drain = self.loops.sweep_soon, self.drain.record
        self.runs.capacity.on_release = self.watch.place_released
        self.shared.queue.claim_soon = self.watch.claim_soon
        if isinstance(self.shared.store, LockWatched):
            registry = self.shared.registry
            self.shared.store.lock_watch.runs = lambda: (
                entry.record.run_id for entry in registry.unsettled()
            )

    async def _registered(self, epoch: int) -> None:
        await self.storages.open()  # without `open`, the first admission registers the worker
        if self.shared.store.shared:
            self.pacemaker.start(self.shared.worker.lease)
            await self.loops.begin(epoch)
            self.pruner.begin()
        await self.projector.begin()
        if self.shared.store.shared or self.shared.removal.storages:
            self.expiry.begin()

    def _kinds(self) -> tuple[ThreadStates, ...]:
        self.shared.assistants.seal()
        return self.shared.assistants.kinds

    def _fenced(self, why: str) -> None:
        for entry in self.shared.registry.unsettled():
            self.runs.settlement.lose(entry, why)
        self.shared.outbox.weed()
        self.loops.register_anew()

    def _ended(self, orphans: Sequence[Orphan]) -> None:
        self.reaper.epoch_ended(orphans)

    async def _take_over(self, own: Ownership) -> bool:
        return await self.runs.takeover.run(own)

    async def _dropped_runs_stopped(self) -> None:
        """Returns when the runs of the previous epochs have stopped or were settled by force."""
        lost = [entry.settled.wait() for entry in self.shared.registry.unsettled() if entry.elsewhere]
        await asyncio.gather(*lost)

    async def open(self) -> None:
        """Open the store and the storages of state, register this worker, start its loops."""
        await self.shared.store.open()
        await self.storages.open()
        try:
            await self.shared.worker.ready()
        except BaseException:
            await self.storages.aclose()
            raise

    async def close(self, timeout: float | None) -> None:
        """Drain, sign off, end every task of this manager, close transport and store. Idempotent.

        Returns within `timeout` (s; None = the setting) and 5 s, also where the store is blocked: a step that
        is not completed by then is logged and skipped.
        """
        await self.drain.run(timeout)
        now = asyncio.get_running_loop().time()
        closing = Deadline(max(self.drain.until + EXIT_WITHIN, now + EXIT_WITHIN - DRAINED))
        shared = self.shared
        await closing.step("Stopping the loops", self.loops.stop())
        await closing.step("Stopping the pruner", self.pruner.stop())
        await closing.step("Stopping the expiry", self.expiry.stop())
        await shared.jobs.finished(within=min(1.0, closing.share))
        await shared.outbox.aclose(within=min(5.0, closing.share))
        await closing.step("Delivering changes of runs", self.projector.stop())
        await closing.step("Writing event logs", shared.event_log.aclose())
        await closing.step("Stopping the heartbeat", self.pacemaker.stop())
        await closing.step("Signing off", shared.worker.retire())
        for entry in shared.registry.unsettled():  # admitted during the drain, or not stopped by its cancel
            self.runs.settlement.abandon(entry, "the worker has left")
        await shared.jobs.finished(within=min(1.0, closing.share))  # those begun since the first call
        self.runs.readers.close()
        await closing.step("Closing the state of threads", self.storages.aclose())
        await closing.step("Closing the transport", shared.notifier.aclose())
        await closing.step("Closing the store", shared.store.aclose())


def _check(store: CoordinationStore, settings: Settings) -> None:
    """Raises InvalidArgument if no worker could execute what this one admits, or no client follow it."""
    if not settings.admit_only:
        return
    if not store.shared:
        raise InvalidArgument("admit_only", f"no other worker can use the store {store.url}")
    if settings.event_log == "memory":
        raise InvalidArgument("admit_only", "event_log = memory keeps the events of runs from this worker")
