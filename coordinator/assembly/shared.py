"""Builds the collaborators that both the runs and the loops of the worker use."""

from __future__ import annotations

from collections.abc import Iterable

from coordinator.assistants.decorator import Agents
from coordinator.assistants.left import LeftStates
from coordinator.assistants.registry import Assistants
from coordinator.assistants.removal import StateRemoval
from coordinator.assistants.undo import Undo
from coordinator.assistants.values import StoredValues
from coordinator.clock import Clocks, Stamps
from coordinator.event_log import EventLog
from coordinator.events.audience import Audience
from coordinator.events.writer import EventWriter, confirming
from coordinator.lock import SlotLock
from coordinator.notifier import Notifier
from coordinator.runs.jobs import Jobs
from coordinator.runs.registry import Registry
from coordinator.runs.thread_queue import ThreadQueue
from coordinator.settings import Settings
from coordinator.telemetry import Hook, Telemetry
from coordinator.workers.worker import Worker
from stores.base import CoordinationStore
from stores.event_loop import HomeLoop
from stores.optional import ForgettingStore
from stores.outbox import Outbox


class Shared:
    def __init__(
        self,
        store: CoordinationStore,
        settings: Settings,
        *,
        notifier: Notifier,
        slots: SlotLock,
        event_log: EventLog,
        hooks: Iterable[Hook],
        assistants: Agents,
        clocks: Clocks,
    ) -> None:
        self.store, self.settings, self.clocks = store, settings, clocks
        self._forgetting = store if isinstance(store, ForgettingStore) else None
        self.notifier, self.slots, self.event_log = notifier, slots, event_log
        self.home = HomeLoop("RunManager")
        self.telemetry = Telemetry(hooks)
        self.jobs, self.stamps = Jobs(), Stamps(clocks.wall)
        self.events = EventWriter(event_log, notifier, settings, holds=confirming(store), jobs=self.jobs)
        self.registry = self._new_registry()
        self.audience = Audience(store, self.registry.is_unsettled, keep=settings.keep_temporary)
        self.values = StoredValues(store, lambda: self.worker.epoch, max_bytes=settings.max_values_bytes)
        self.assistants = Assistants(assistants, self.values, executed=not settings.admit_only)
        self.undo = Undo(self.values, self.assistants.states_of, within=settings.restore_timeout)
        within = min(settings.restore_timeout, settings.force_after)
        self.left = LeftStates(self.values, within=within, copy_bytes=settings.state_copy_bytes)
        self.removal = StateRemoval(store, lambda: self.assistants.kinds, within=settings.restore_timeout)
        self.worker = Worker(
            store, settings, self.telemetry, assistants=self.assistants.seal, clock=clocks.boottime
        )
        self.outbox = Outbox(settings.outbox_limit, self.worker.check)
        self.queue = ThreadQueue(
            store,
            self.registry,
            slots=slots,
            notifier=notifier,
            worker=self.worker,
            outbox=self.outbox,
            jobs=self.jobs,
        )

    def _new_registry(self) -> Registry:
        given = self.settings
        return Registry(
            given.keep_finished,
            given.keep_finished_max,
            self._forget,
            keep_temporary=given.keep_temporary,
            # A store in memory has no other copy of an evicted record, so there is no bound by bytes.
            keep_bytes=given.keep_finished_bytes if self.store.durable else None,
            clocks=self.clocks,
            force_after=given.force_after,
            followed=self._is_followed,
        )

    def _is_followed(self, run_id: str) -> bool:
        return self.audience.has(run_id)

    def _forget(self, run_id: str) -> None:
        """Removes an evicted run from the memory of the store and of the event writer as well."""
        if self._forgetting is not None:
            self._forgetting.forget(run_id)
        self.events.forget(run_id)
