"""Puts a manager's collaborators together: each gets only the ports that it uses."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from functools import cached_property

from coordinator.assistants.decorator import Agents
from coordinator.assistants.registry import Assistants
from coordinator.assistants.undo import Undo
from coordinator.assistants.values import StoredValues
from coordinator.clock import Clocks, Stamps
from coordinator.event_log import EventLog
from coordinator.events.audience import Audience
from coordinator.events.follower import Readers
from coordinator.events.standing import Standing
from coordinator.events.writer import EventWriter, confirming
from coordinator.lock import SlotLock
from coordinator.notifier import Notifier
from coordinator.runs.admission import Admissions
from coordinator.runs.cancellation import Cancellations, Delivery
from coordinator.runs.catalogue import Catalogue
from coordinator.runs.execution import Execution
from coordinator.runs.jobs import Jobs
from coordinator.runs.lifecycle import Lifecycle
from coordinator.runs.operations import Operations
from coordinator.runs.queries import Queries, Waiter
from coordinator.runs.reading import Reading
from coordinator.runs.registry import Registry
from coordinator.runs.settlement import Settlement
from coordinator.runs.takeover import Takeover
from coordinator.runs.timeouts import Timeouts
from coordinator.runs.waiting_line import WaitingLine
from coordinator.settings import Settings
from coordinator.telemetry import Hook, Telemetry
from coordinator.workers.deadline import GONE, Deadline
from coordinator.workers.drain import DRAINED, Drain
from coordinator.workers.executor import TrackingExecutor
from coordinator.workers.expiry import Expiry
from coordinator.workers.health import Examination
from coordinator.workers.lease import Pacemaker
from coordinator.workers.loops import Loops
from coordinator.workers.pacemaker import pacemaker_for
from coordinator.workers.pruner import Pruner
from coordinator.workers.reaper import Reaper
from coordinator.workers.watch import Watch
from coordinator.workers.worker import Worker
from stores.base import CoordinationStore, ForgettingStore
from stores.event_loop import HomeLoop
from stores.outbox import Outbox
from stores.pruning import Retention
from stores.rows import Limits, Orphan, Ownership

_QUICK_POLL = 0.02  # s; first look of a waiter to whom no hint can come


class Assembly:
    """The collaborators of one manager. Each is made when it is first asked for."""

    def __init__(
        self,
        store: CoordinationStore,
        settings: Settings,
        *,
        notifier: Notifier,
        slots: SlotLock,
        event_log: EventLog,
        hooks: Iterable[Hook],
        assistants: Agents | None = None,
        pacemaker: Pacemaker | None = None,
        clocks: Clocks | None = None,
    ) -> None:
        self.store, self.settings, self.notifier, self._slots = store, settings, notifier, slots
        self.home = HomeLoop("RunManager")
        self.clocks = clocks or Clocks()
        self._event_log = event_log
        self.telemetry = Telemetry(hooks)
        self.jobs, self._stamps = Jobs(), Stamps(self.clocks.wall)
        self.events = EventWriter(event_log, notifier, settings, holds=confirming(store), jobs=self.jobs)
        self.registry = Registry(
            settings.keep_finished,
            settings.keep_finished_max,
            self._forget,
            keep_temporary=settings.keep_temporary,
            keep_bytes=settings.keep_finished_bytes if store.durable else None,  # elsewhere nothing has them
            clocks=self.clocks,
            force_after=settings.force_after,
            followed=self._is_followed,
        )
        self.assistants = Assistants(assistants or (), self.values)
        self.pacemaker = pacemaker or pacemaker_for(store, settings)
        if self.pacemaker.stall is not None:
            self.pacemaker.stall.run_of_task = self.registry.run_of_task
        self.worker = Worker(
            store,
            settings,
            self.telemetry,
            assistants=self.assistants.seal,
            clock=self.clocks.boottime,
        )
        self.worker.on_registered, self.worker.on_fenced = self._registered, self._fenced
        self.worker.gone = self._gone
        self.worker.on_ended = self._ended
        self.outbox = Outbox(settings.outbox_limit, self.worker.check)
        self.line.take_over = self._take_over
        self.executor: TrackingExecutor | None = None

    # -- runs

    @cached_property
    def values(self) -> StoredValues:
        return StoredValues(self.store, lambda: self.worker.epoch, max_bytes=self.settings.max_values_bytes)

    @cached_property
    def _undo(self) -> Undo:
        return Undo(self.values, self.assistants.states_of, within=self.settings.restore_timeout)

    @cached_property
    def line(self) -> WaitingLine:
        return WaitingLine(
            self.store,
            self.registry,
            slots=self._slots,
            notifier=self.notifier,
            worker=self.worker,
            outbox=self.outbox,
            jobs=self.jobs,
        )

    @cached_property
    def settlement(self) -> Settlement:
        return Settlement(
            self.store,
            self.registry,
            line=self.line,
            slots=self._slots,
            notifier=self.notifier,
            worker=self.worker,
            undo=self._undo,
            jobs=self.jobs,
            outbox=self.outbox,
            telemetry=self.telemetry,
            stamps=self._stamps,
            force_after=self.settings.force_after,
        )

    @cached_property
    def delivery(self) -> Delivery:
        return Delivery(
            self.store,
            self.registry,
            notifier=self.notifier,
            worker=self.worker,
            settlement=self.settlement,
            telemetry=self.telemetry,
            stamps=self._stamps,
        )

    @cached_property
    def timeouts(self) -> Timeouts:
        return Timeouts(
            self.store,
            self.registry,
            delivery=self.delivery,
            jobs=self.jobs,
            launch_within=self.settings.launch_timeout,
        )

    @cached_property
    def _waiter(self) -> Waiter:
        return Waiter(
            self.store, self.registry, self.notifier, poll=self.settings.short_tick, quick=_QUICK_POLL
        )

    @cached_property
    def cancellations(self) -> Cancellations:
        return Cancellations(
            self.store, self.registry, delivery=self.delivery, waiter=self._waiter, jobs=self.jobs
        )

    @cached_property
    def admissions(self) -> Admissions:
        return Admissions(
            self.store,
            self.registry,
            slots=self._slots,
            worker=self.worker,
            settlement=self.settlement,
            line=self.line,
            delivery=self.delivery,
            timeouts=self.timeouts,
            jobs=self.jobs,
            outbox=self.outbox,
            telemetry=self.telemetry,
            stamps=self._stamps,
            limits=Limits(self.settings.max_waiting_per_thread, self.settings.max_waiting_per_user),
            assistants=self.assistants,
            patience=self.settings.admission_patience,
            swept=self.reaper.first_sweep,
        )

    @cached_property
    def lifecycle(self) -> Lifecycle:
        return Lifecycle(
            self.store,
            self.registry,
            settlement=self.settlement,
            delivery=self.delivery,
            worker=self.worker,
            timeouts=self.timeouts,
            states=self.values,
            jobs=self.jobs,
            outbox=self.outbox,
            telemetry=self.telemetry,
            stamps=self._stamps,
        )

    @cached_property
    def execution(self) -> Execution:
        return Execution(
            self.registry,
            lifecycle=self.lifecycle,
            settlement=self.settlement,
            values=self.values,
            worker=self.worker,
            events=self.events,
            telemetry=self.telemetry,
            home=self.home,
        )

    @cached_property
    def takeover(self) -> Takeover:
        return Takeover(
            self.store,
            self.registry,
            admissions=self.admissions,
            execution=self.execution,
            assistants=self.assistants,
        )

    @cached_property
    def operations(self) -> Operations:
        return Operations(
            self.store,
            self.registry,
            admissions=self.admissions,
            lifecycle=self.lifecycle,
            execution=self.execution,
            settlement=self.settlement,
            values=self.values,
            assistants=self.assistants,
        )

    @cached_property
    def queries(self) -> Queries:
        return Queries(self.store, self.registry, self._waiter)

    @cached_property
    def reading(self) -> Reading:
        return Reading(self.queries, self.assistants)

    @cached_property
    def catalogue(self) -> Catalogue:
        return Catalogue(self.store, self.registry, self._event_log)

    @cached_property
    def readers(self) -> Readers:
        return Readers(
            self._event_log,
            self.notifier,
            self.settings,
            jobs=self.jobs,
            standing=Standing(self.queries),
            emitted=self._emitted,
            audience=self.audience,
        )

    @cached_property
    def audience(self) -> Audience:
        return Audience(self.store, self.registry.lives, keep=self.settings.keep_temporary)

    def _is_followed(self, run_id: str) -> bool:
        return self.audience.has(run_id)

    def _emitted(self, run_id: str) -> bool | None:
        entry = self.registry.entry(run_id)
        return None if entry is None or entry.elsewhere else self.events.emitted(run_id)

    # -- what this worker owes the others

    @cached_property
    def watch(self) -> Watch:
        return Watch(
            self.store,
            self.registry,
            worker=self.worker,
            delivery=self.delivery,
            line=self.line,
            timeouts=self.timeouts,
            drain=self.drain,
            jobs=self.jobs,
            clock=self.clocks.boottime,
        )

    @cached_property
    def reaper(self) -> Reaper:
        return Reaper(
            self.store,
            worker=self.worker,
            line=self.line,
            undo=self._undo,
            slots=self._slots,
            notifier=self.notifier,
            jobs=self.jobs,
            telemetry=self.telemetry,
            needed=self.store.shared,
            clock=self.clocks.boottime,
        )

    @cached_property
    def examination(self) -> Examination:
        return Examination(
            self.store,
            self.settings,
            worker=self.worker,
            pacemaker=self.pacemaker,
            notifier=self.notifier,
            event_log=self._event_log,
            watch=self.watch,
            reaper=self.reaper,
            outbox=self.outbox,
            refusals=self.settlement.refusals,
            executor=lambda: self.executor,
            clock=self.clocks.boottime,
        )

    @cached_property
    def expiry(self) -> Expiry:
        given = self.settings
        return Expiry(
            self.store,
            self.registry,
            self._event_log,
            interval=given.sweep,
            jitter=given.jitter,
            max_event_bytes=given.event_log_total_bytes,
        )

    @cached_property
    def loops(self) -> Loops:
        return Loops(
            self.settings,
            worker=self.worker,
            watch=self.watch,
            reaper=self.reaper,
            notifier=self.notifier,
            telemetry=self.telemetry,
        )

    @cached_property
    def pruner(self) -> Pruner:
        given = self.settings
        keep = Retention(
            given.keep_runs, given.keep_transitions, given.keep_workers, webhooks=given.keep_webhooks
        )
        return Pruner(self.store, keep, interval=given.prune, jitter=given.jitter)

    @cached_property
    def drain(self) -> Drain:
        return Drain(
            self.store,
            self.registry,
            worker=self.worker,
            delivery=self.delivery,
            settlement=self.settlement,
            notifier=self.notifier,
            jobs=self.jobs,
            grace=self.settings.grace,
        )

    @property
    def temporary_ms(self) -> int:
        """The time to live of a temporary thread."""
        return round(self.settings.keep_temporary * 1000)

    # -- what binds them

    async def _registered(self, epoch: int) -> None:
        if self.store.shared:
            self.pacemaker.start(self.worker.lease)
            await self.loops.begin(epoch)
            self.pruner.begin()
            self.expiry.begin()

    def _forget(self, run_id: str) -> None:
        """What leaves memory here leaves the memory of the store and of the event log as well."""
        if isinstance(self.store, ForgettingStore):
            self.store.forget(run_id)
        self.events.forget(run_id)

    def _fenced(self, why: str) -> None:
        for entry in self.registry.unsettled():
            self.settlement.lose(entry, why)
        self.outbox.weed()
        self.loops.register_anew()

    def _ended(self, orphans: Sequence[Orphan]) -> None:
        self.reaper.hint_at_children_of(orphans)

    async def _take_over(self, own: Ownership) -> bool:
        return await self.takeover.run(own)

    async def _gone(self) -> None:
        """The runs of an epoch that is over have stopped, or had the time to."""
        lost = [entry.settled.wait() for entry in self.registry.unsettled() if entry.lost]
        await asyncio.gather(*lost)

    def install_executor(self, size: int | None) -> None:
        """It stays when the manager leaves: the loop is its host's."""
        loop = asyncio.get_running_loop()
        self.executor = TrackingExecutor(size or self.settings.threads, loop)
        loop.set_default_executor(self.executor)

    async def close(self, timeout: float | None) -> None:
        """Drain, sign off, end every task of this manager, let go of transport and store. Idempotent.

        Returns within `timeout` (s; None = the setting) and 5 s, also where the store is blocked: what
        could not be done by then is logged and left undone.
        """
        await self.drain.run(timeout)
        now = asyncio.get_running_loop().time()
        closing = Deadline(max(self.drain.until + GONE, now + GONE - DRAINED))
        await closing.step("Stopping the loops", self.loops.stop())
        await closing.step("Stopping the pruner", self.pruner.stop())
        await closing.step("Stopping the expiry", self.expiry.stop())
        await self.jobs.finished(within=min(1.0, closing.share))
        await self.outbox.aclose(within=min(5.0, closing.share))
        await closing.step("Writing event logs", self._event_log.aclose())
        await closing.step("Stopping the heartbeat", self.pacemaker.stop())
        await closing.step("Signing off", self.worker.retire())
        for entry in self.registry.unsettled():  # admitted while the doors closed, or deaf to its cancel
            self.settlement.abandon(entry, "the worker has left")
        self.readers.close()
        await closing.step("Closing the transport", self.notifier.aclose())
        await closing.step("Closing the store", self.store.aclose())
