"""Projections: every change of a run's row is passed to a function of the caller's, for a table of its
own."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from coordinator.clock import boottime
from coordinator.errors import StoreUnavailable
from coordinator.runs.incarnation import Incarnation
from coordinator.telemetry import Event, Telemetry
from coordinator.telemetry.events import ChangeDelivered, ChangeFailed, RunEmitted, RunEvent
from coordinator.workers.loops import every
from coordinator.workers.projection_log import ProjectionLog
from stores.projections import FailedChange, ProjectionStore, RunChange
from stores.tasks import begin_soon

logger = logging.getLogger(__name__)

BATCH = 100
"""Changes of one claim."""
GATHER = 0.02
"""Seconds between a change of a run on this worker and the claim: changes of other runs come along."""
MOST_FAILURES = 3
"""Deliveries in a row that may fail before the rest of the batch waits: the receiver may be down."""
LONGEST_BACKOFF = 60.0  # s
_MARGIN = 10.0  # s; a claim outlasts two calls by this, for its own answer and the report


@dataclass(frozen=True, slots=True)
class Projection:
    """`on_change` is awaited for each change of a run's row, at least once, for the changes of a thread in
    their order, by one worker at a time. It raises if it could not apply the change, or takes longer than
    `timeout` (s): it is called again, after a delay that grows, and later changes of that thread wait. Runs
    never wait for it.

    `name` identifies the queue in the store: two projections with one name on two workers are the same. A
    change that is not newer than what a row has (`run_id`, `seq`) was applied before.
    """

    name: str
    on_change: Callable[[RunChange], Awaitable[object]]
    timeout: float = 30.0


class Projector:
    """Delivers the changes of all projections of this worker, from its first registration on. Other workers
    with the same projections take over if it ends."""

    def __init__(
        self,
        store: object,
        *,
        worker: Incarnation,
        telemetry: Telemetry,
        interval: float,
        jitter: float,
        clock: Callable[[], float] = boottime,
    ) -> None:
        self._store = store if isinstance(store, ProjectionStore) else None
        self._worker, self._telemetry, self._clock = worker, telemetry, clock
        self._interval, self._jitter = interval, jitter
        self._deliveries: dict[str, _Delivery] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._stopped = False

    @property
    def store(self) -> ProjectionStore | None:
        """None: the store keeps no changes."""
        return self._store

    @property
    def begun(self) -> bool:
        return bool(self._tasks)

    @property
    def failures(self) -> tuple[str, ...]:
        """Why projections that this worker delivers are behind: for each a sentence."""
        firsts = (next(iter(each.failures.values()), None) for each in self._deliveries.values())
        return tuple(first for first in firsts if first is not None)

    def add(self, projection: Projection) -> bool:
        """Before `begin`. Returns False if the name is in use, or the store keeps no changes."""
        if self._store is None or projection.name in self._deliveries:
            return False
        self._deliveries[projection.name] = _Delivery(
            self._store, projection, worker=self._worker, telemetry=self._telemetry, clock=self._clock
        )
        return True

    async def begin(self) -> None:
        """Adds the projections to the store, before the first admission of this worker, and starts the loops.
        Idempotent. No effect without a projection."""
        if self._tasks or self._stopped or not self._deliveries:
            return
        for delivery in self._deliveries.values():
            await delivery.add()
        self._telemetry.add(self._changed)
        for delivery in self._deliveries.values():
            what = f"The projection {delivery.name!r}"
            loop = every(lambda: self._interval, self._jitter, delivery.round, delivery.kick, what=what)
            self._tasks.append(begin_soon(loop))
            delivery.kick.set()

    def _changed(self, event: Event) -> None:
        """A run of this worker has changed. What other workers change is found after the interval."""
        if isinstance(event, RunEvent) and not isinstance(event, RunEmitted):
            for delivery in self._deliveries.values():
                delivery.kick.set()

    async def stop(self) -> None:
        """Ends the loops after the call in progress, and delivers what is due for a last time. Other workers,
        or the next process, deliver the rest. Idempotent."""
        self._stopped = True
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        if not tasks:
            return
        await asyncio.wait(tasks)
        try:
            await asyncio.gather(*(each.last_round() for each in self._deliveries.values()))
        finally:
            for each in self._deliveries.values():
                each.abandon()


class _Delivery:
    """The delivery of one projection."""

    def __init__(
        self,
        store: ProjectionStore,
        projection: Projection,
        *,
        worker: Incarnation,
        telemetry: Telemetry,
        clock: Callable[[], float],
    ) -> None:
        self._store, self._projection, self._worker = store, projection, worker
        self._telemetry, self._clock = telemetry, clock
        self._added = False
        self._alone = asyncio.Lock()
        self._rounds: asyncio.Task[None] | None = None
        self.name, self.kick = projection.name, asyncio.Event()
        self.failures: dict[str, str] = {}
        """By thread whose changes wait after a failure of this worker: why."""
        self._log = ProjectionLog(self.name, clock)

    async def round(self) -> None:
        """Delivers what is due. Raises StoreError, EpochDead."""
        await asyncio.sleep(GATHER)
        # A cancel of the loop does not end the call in progress, whose change would be delivered twice.
        self._rounds = begin_soon(self._deliver_due())
        await asyncio.shield(self._rounds)

    async def last_round(self) -> None:
        """After the loop has ended. Never raises."""
        try:
            await self._deliver_due()
        except Exception as error:  # noqa: BLE001 - the process ends; the next one delivers
            logger.warning("The last changes for projection %r were not delivered: %s", self.name, error)

    async def add(self) -> None:
        """Adds the projection to the store. If the store is unavailable, the first round does."""
        with suppress(StoreUnavailable):
            await self._ensure_added()

    async def _ensure_added(self) -> None:
        if not self._added:
            await self._store.add_projection(self.name)
            self._added = True

    def abandon(self) -> None:
        """Cancels the call in progress: the process ends."""
        if self._rounds is not None:
            self._rounds.cancel()

    async def _deliver_due(self) -> None:
        async with self._alone:
            await self._ensure_added()
            while (due_in := await self._store.next_change(self.name)) == 0:
                if not await self._deliver_batch():
                    return
            if due_in is None:  # other workers may have delivered what had failed here
                self.failures.clear()
                self._log.works()

    async def _deliver_batch(self) -> bool:
        """Returns whether there may be more to deliver at once."""
        epoch, timeout = self._worker.epoch, self._projection.timeout
        lease = 2 * timeout + _MARGIN
        until = self._clock() + lease - _MARGIN
        changes = await self._store.claim_changes(self.name, epoch=epoch, lease=lease, limit=BATCH)
        if changes is None:
            return False
        batch = _Batch(self._projection, self._telemetry, self.failures, self._log)
        for change in changes:
            # A worker that was fenced, or may not end a call within its claim, leaves the rest to others.
            if self._worker.epoch != epoch or self._clock() + timeout > until or batch.failing:
                break
            await batch.deliver(change)
        await self._store.report_changes(
            self.name, epoch=epoch, delivered=batch.delivered, failed=batch.failed
        )
        if not self.failures:
            self._log.works()
        if batch.delivered:
            self._telemetry.emit(ChangeDelivered(self.name, len(batch.delivered)))
        return bool(batch.delivered) and not batch.failing


class _Batch:
    """The changes of one claim, in order."""

    def __init__(
        self, projection: Projection, telemetry: Telemetry, failures: dict[str, str], log: ProjectionLog
    ) -> None:
        self._projection, self._telemetry, self._failures, self._log = projection, telemetry, failures, log
        self._delayed = set[str]()
        """Threads of which a change has failed."""
        self._in_a_row = 0
        self.delivered = list[int]()
        self.failed = list[FailedChange]()

    @property
    def failing(self) -> bool:
        return self._in_a_row >= MOST_FAILURES

    async def deliver(self, change: RunChange) -> None:
        if change.thread_id in self._delayed:
            return
        try:
            if change.visible:
                async with asyncio.timeout(self._projection.timeout):
                    await self._projection.on_change(change)
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is None or task.cancelling():
                raise
            self._failed(change, RuntimeError("it was cancelled by its own code"))
        except Exception as error:  # noqa: BLE001 - of the caller's function
            self._failed(change, error)
        else:
            self._in_a_row = 0
            self._failures.pop(change.thread_id, None)
            self.delivered.append(change.seq)

    def _failed(self, change: RunChange, error: Exception) -> None:
        longest = min(LONGEST_BACKOFF, 2.0 ** min(change.attempt - 1, 10))
        retry_in, why = longest * random.uniform(0.5, 1.0), f"{type(error).__name__}: {error}"[:1000]
        self._in_a_row += 1
        self._delayed.add(change.thread_id)
        self.failed.append(FailedChange(change.seq, why, round(retry_in * 1e6)))
        name, run_id = self._projection.name, change.run_id
        self._failures[change.thread_id] = (
            f"projection {name!r}: change {change.seq} of run {run_id!r} failed: {why}"
        )
        self._log.failed(change, error, waiting=len(self._failures))
        self._telemetry.emit(ChangeFailed(name, run_id, change.seq, change.attempt, why, retry_in))
