"""Builds the collaborators of the life of a run: admission, execution, cancel, settlement, followers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from coordinator.assembly.shared import Shared
from coordinator.events.followed import LocalRuns
from coordinator.events.follower import Readers
from coordinator.events.standing import Standings
from coordinator.runs.admission import Admissions
from coordinator.runs.blocks import Blocks
from coordinator.runs.cancellation import Cancellations, Delivery
from coordinator.runs.capacity import Capacity, RunningLimits
from coordinator.runs.dispatch import Dispatch
from coordinator.runs.execution import Execution
from coordinator.runs.extras import Extras
from coordinator.runs.hand_over import HandOvers
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
        self.delivery = self._new_delivery()
        self.timeouts = Timeouts(
            store, registry, delivery=self.delivery, jobs=shared.jobs, launch_within=settings.launch_timeout
        )
        self.capacity = Capacity(
            RunningLimits(
                settings.max_running, settings.max_running_per_assistant, settings.max_running_per_user
            )
        )
        self.waiter = Waiter(store, registry, shared.notifier, poll=settings.short_tick, quick=_FIRST_POLL)
        self.cancellations = Cancellations(
            store,
            registry,
            delivery=self.delivery,
            waiter=self.waiter,
            worker=shared.worker,
            jobs=shared.jobs,
            outbox=shared.outbox,
        )
        self.admissions = self._new_admissions()
        self.lifecycle = self._new_lifecycle()
        self.execution = self._new_execution()
        self.extras = Extras(store, registry, self.lifecycle)
        self.blocks = Blocks(
            registry,
            lifecycle=self.lifecycle,
            execution=self.execution,
            settlement=self.settlement,
            extras=self.extras,
        )
        self.takeover = self._new_takeover()
        shared.queue.places = self.capacity
        self.operations = self._new_operations()
        self.queries = Queries(store, registry, self.waiter, shared.assistants)
        self.readers = self._new_readers()

    def _new_takeover(self) -> Takeover:
        return Takeover(
            self._shared.store,
            self._shared.registry,
            admissions=self.admissions,
            execution=self.execution,
            assistants=self._shared.assistants,
            telemetry=self._shared.telemetry,
            capacity=self.capacity,
        )

    def _new_delivery(self) -> Delivery:
        shared = self._shared
        return Delivery(
            shared.store,
            shared.registry,
            notifier=shared.notifier,
            worker=shared.worker,
            settlement=self.settlement,
            telemetry=shared.telemetry,
            stamps=shared.stamps,
        )

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
            left=shared.left,
            events=shared.events,
            jobs=shared.jobs,
            outbox=shared.outbox,
            telemetry=shared.telemetry,
            stamps=shared.stamps,
            hand_overs=HandOvers(
                shared.store,
                events=shared.events,
                notifier=shared.notifier,
                worker=shared.worker,
                jobs=shared.jobs,
                outbox=shared.outbox,
                telemetry=shared.telemetry,
            ),
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
            capacity=self.capacity,
            patience=settings.admission_patience,
            dispatch=Dispatch(
                shared.store,
                shared.queue,
                jobs=shared.jobs,
                outbox=shared.outbox,
                telemetry=shared.telemetry,
                admit_only=settings.admit_only,
            ),
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
            removal=shared.removal,
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
            timeouts=self.timeouts,
            capacity=self.capacity,
            values=shared.values,
            worker=shared.worker,
            events=shared.events,
            telemetry=shared.telemetry,
            home=shared.home,
            state_copy_bytes=shared.settings.state_copy_bytes,
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
            removal=shared.removal,
            state_copy_bytes=shared.settings.state_copy_bytes,
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
