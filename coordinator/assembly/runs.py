"""Builds the collaborators of the life of a run: admission, execution, cancel, settlement, followers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from coordinator.assembly.shared import Shared
from coordinator.events.followed import LocalRuns
from coordinator.events.follower import Readers
from coordinator.events.standing import Standings
from coordinator.runs.admission import Admissions
from coordinator.runs.cancellation import Cancellations, Delivery
from coordinator.runs.execution import Execution
from coordinator.runs.lifecycle import Lifecycle
from coordinator.runs.operations import Operations
from coordinator.runs.queries import Queries, Waiter
from coordinator.runs.settlement import Settlement
from coordinator.runs.takeover import Takeover
from coordinator.runs.timeouts import Timeouts
from stores.rows import Limits

_FIRST_POLL = 0.02  # s; between the first two reads of a waiter that gets no hints


class RunParts:
    """Built in the order of their dependencies. `swept`: awaited before the first admission."""

    def __init__(self, shared: Shared, *, swept: Callable[[], Awaitable[None]]) -> None:
        self._shared, self._swept = shared, swept
        store, registry, settings = shared.store, shared.registry, shared.settings
        self.settlement = self._new_settlement()
        self.delivery = Delivery(
            store,
            registry,
            notifier=shared.notifier,
            worker=shared.worker,
            settlement=self.settlement,
            telemetry=shared.telemetry,
            stamps=shared.stamps,
        )
        self.timeouts = Timeouts(
            store, registry, delivery=self.delivery, jobs=shared.jobs, launch_within=settings.launch_timeout
        )
        self.waiter = Waiter(store, registry, shared.notifier, poll=settings.short_tick, quick=_FIRST_POLL)
        self.cancellations = Cancellations(
            store, registry, delivery=self.delivery, waiter=self.waiter, jobs=shared.jobs
        )
        self.admissions = self._new_admissions()
        self.lifecycle = self._new_lifecycle()
        self.execution = self._new_execution()
        self.takeover = Takeover(
            store,
            registry,
            admissions=self.admissions,
            execution=self.execution,
            assistants=shared.assistants,
        )
        self.operations = self._new_operations()
        self.queries = Queries(store, registry, self.waiter)
        self.readers = self._new_readers()

    def _new_settlement(self) -> Settlement:
        shared = self._shared
        return Settlement(
            shared.store,
            shared.registry,
            queue=shared.queue,
            slots=shared.slots,
            notifier=shared.notifier,
            worker=shared.worker,
            undo=shared.undo,
            jobs=shared.jobs,
            outbox=shared.outbox,
            telemetry=shared.telemetry,
            stamps=shared.stamps,
            force_after=shared.settings.force_after,
        )

    def _new_admissions(self) -> Admissions:
        shared, settings = self._shared, self._shared.settings
        return Admissions(
            shared.store,
            shared.registry,
            slots=shared.slots,
            worker=shared.worker,
            settlement=self.settlement,
            queue=shared.queue,
            delivery=self.delivery,
            timeouts=self.timeouts,
            jobs=shared.jobs,
            outbox=shared.outbox,
            telemetry=shared.telemetry,
            stamps=shared.stamps,
            limits=Limits(settings.max_waiting_per_thread, settings.max_waiting_per_user),
            assistants=shared.assistants,
            values=shared.values,
            patience=settings.admission_patience,
            swept=self._swept,
        )

    def _new_lifecycle(self) -> Lifecycle:
        shared = self._shared
        return Lifecycle(
            shared.store,
            shared.registry,
            settlement=self.settlement,
            delivery=self.delivery,
            worker=shared.worker,
            timeouts=self.timeouts,
            states=shared.values,
            jobs=shared.jobs,
            outbox=shared.outbox,
            telemetry=shared.telemetry,
            stamps=shared.stamps,
        )

    def _new_execution(self) -> Execution:
        shared = self._shared
        return Execution(
            shared.registry,
            lifecycle=self.lifecycle,
            settlement=self.settlement,
            values=shared.values,
            worker=shared.worker,
            events=shared.events,
            telemetry=shared.telemetry,
            home=shared.home,
        )

    def _new_operations(self) -> Operations:
        shared = self._shared
        return Operations(
            shared.store,
            shared.registry,
            admissions=self.admissions,
            lifecycle=self.lifecycle,
            execution=self.execution,
            settlement=self.settlement,
            values=shared.values,
            assistants=shared.assistants,
        )

    def _new_readers(self) -> Readers:
        shared = self._shared
        return Readers(
            shared.event_log,
            shared.notifier,
            shared.settings,
            jobs=shared.jobs,
            standings=Standings(self.queries),
            local=LocalRuns(shared.registry, shared.events),
            audience=shared.audience,
        )
