"""Health of this worker, subsystem by subsystem, measured when it is requested."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from coordinator.clock import boottime
from coordinator.errors import CoordinatorError, SchemaTooNew
from coordinator.event_log import EventLog
from coordinator.notifier import Connectivity, Explaining, Notifier
from coordinator.runs.overdue import Overdue
from coordinator.runs.refusals import Refusals
from coordinator.settings import Settings
from coordinator.workers.executor import TrackingExecutor
from coordinator.workers.lease import Pacemaker
from coordinator.workers.projections import Projector
from coordinator.workers.reaper import Reaper
from coordinator.workers.stall import STALLED_AFTER
from coordinator.workers.unclaimed import UnclaimedRuns
from coordinator.workers.watch import Watch
from coordinator.workers.worker import Worker
from stores.base import WorkerStore
from stores.lock_watch import LockWatched
from stores.optional import VersionedStore
from stores.outbox import Outbox
from stores.sql.readable import unreadable_rows

READ_TIMEOUT = 1.0  # s; a store that needs longer for one small read counts as unreachable
MISSED = 5  # consecutive ticks
UNWRITTEN = 3.0  # s; a shorter outage of writes is no reason to route runs to other workers


@dataclass(frozen=True, slots=True)
class Health:
    """`ready`: the worker accepts new runs; else `why_not` has the reasons. An outage of Redis alone does not
    make a worker unready, because the tick replaces hints; failing ticks do. Times are in seconds."""

    state: str
    """unregistered, live, fenced (between two epochs) or draining."""
    epoch: int
    lease_remaining: float | None
    """None if the lease never ends, because no other process uses the store."""
    store_reachable: bool
    store_error: str | None
    blocked_by: int | None
    """Pid of the process that holds the store's write lock at this moment."""
    connectivity: Connectivity
    """Of the transport of hints: Redis, or the notifications of PostgreSQL."""
    redis: Connectivity
    """The same if that transport is Redis, else `off`."""
    transport_error: str | None
    """Why hints are not delivered, or why event logs cannot be appended to."""
    ticked_ago: float | None
    swept_ago: float | None
    loop_lag: float | None
    """The longer of two delays of the event loop: measured now, and at the last probe of the heartbeat."""
    thread_jobs: int | None
    """Jobs in the executor's threads and its queue, of runs and others; None without a tracking executor."""
    outliving: tuple[str, ...]
    """The run id of each job whose run is over. The job occupies a thread of the executor until it ends."""
    overdue: tuple[str, ...]
    """A sentence for each run that was settled by force and whose work still executes. It makes no worker
    unready."""
    unreadable_rows: int
    """Rows of the store that this process could not decode, and omitted from lists."""
    failing_projections: tuple[str, ...]
    """A sentence for each projection that could not apply a change. It makes no worker unready."""
    unclaimed_runs: tuple[str, ...]
    """On a worker that only admits: a sentence for each assistant whose runs no live worker executes. It
    makes no worker unready."""
    ready: bool
    why_not: tuple[str, ...]


class Measurements(NamedTuple):
    """Input of the checks, measured once for each examination."""

    state: str
    store_error: CoordinatorError | str | None
    ticked: float | None
    lag: float | None


Check = Callable[[Measurements], str | None]


class Examination:
    def __init__(
        self,
        store: WorkerStore,
        settings: Settings,
        *,
        worker: Worker,
        pacemaker: Pacemaker,
        notifier: Notifier,
        event_log: EventLog,
        watch: Watch,
        reaper: Reaper,
        outbox: Outbox,
        refusals: Refusals,
        overdue: Overdue,
        projector: Projector,
        unclaimed: UnclaimedRuns,
        clock: Callable[[], float] = boottime,
    ) -> None:
        self._store, self._settings, self._worker, self._pacemaker = store, settings, worker, pacemaker
        self._notifier, self._watch, self._reaper, self._clock = notifier, watch, reaper, clock
        self._event_log = event_log
        self._outbox, self._refusals, self._projector = outbox, refusals, projector
        self._overdue = overdue
        self._unclaimed = unclaimed
        self.executor: TrackingExecutor | None = None
        """The event loop's default executor, where it is one that tracks thread jobs."""
        self.checks: dict[str, Check] = {
            "worker": self._check_worker,
            "store": self._check_store,
            "ticks": self._check_last_tick,
            "failing ticks": self._check_failing_ticks,
            "heartbeat": self._check_heartbeat,
            "pending writes": self._check_outbox,
            "refused ends": self._check_refused_ends,
            "event loop": self._check_event_loop,
            "threads": self._check_executor,
        }
        """By name. A check returns why the worker is not ready, or None. One reason makes it unready."""

    async def health(self) -> Health:
        """Makes one small read of the store, bounded by READ_TIMEOUT. Never raises."""
        error, lag = await self._store_error(), await self._lag()
        remaining = self._worker.lease.remaining
        ticked, swept = self._ago(self._watch.ticked_at), self._ago(self._reaper.swept_at)
        state, executor = self._state(), self.executor
        measured = Measurements(state, error, ticked, lag)
        why_not = tuple(reason for check in self.checks.values() if (reason := check(measured)) is not None)
        return Health(
            state=state,
            epoch=self._worker.epoch,
            lease_remaining=None if remaining == math.inf else remaining,
            store_reachable=error is None,
            store_error=None if error is None else str(error),
            blocked_by=self._store.lock_watch.holder_pid() if isinstance(self._store, LockWatched) else None,
            connectivity=self._notifier.connectivity,
            redis=Connectivity.off if self._settings.redis is None else self._notifier.connectivity,
            transport_error=self._transport_error(),
            ticked_ago=ticked,
            swept_ago=swept,
            loop_lag=lag,
            thread_jobs=None if executor is None else executor.jobs,
            outliving=() if executor is None else executor.outliving,
            overdue=self._overdue.sentences,
            unreadable_rows=unreadable_rows(),
            failing_projections=self._projector.failures,
            unclaimed_runs=self._unclaimed.reasons,
            ready=not why_not,
            why_not=why_not,
        )

    def _state(self) -> str:
        worker = self._worker
        if worker.draining:
            return "draining"
        if not worker.epoch:
            return "unregistered"
        return "live" if worker.live and worker.lease.alive(worker.epoch) else "fenced"

    def _check_worker(self, measured: Measurements) -> str | None:
        return None if measured.state == "live" else f"the worker is {measured.state}"

    def _check_store(self, measured: Measurements) -> str | None:
        error = measured.store_error
        if error is None or isinstance(error, SchemaTooNew):
            return None if error is None else str(error)
        return f"the store does not answer: {error}"

    def _check_last_tick(self, measured: Measurements) -> str | None:
        if measured.ticked is not None and measured.ticked > MISSED * self._settings.tick:
            return f"deaf: the last tick was {measured.ticked:.1f} s ago"
        return None

    def _check_failing_ticks(self, _: Measurements) -> str | None:
        failing = self._ago(self._watch.failing_since)
        if failing is not None and failing > MISSED * self._settings.tick:
            return f"all ticks of the last {failing:.1f} s failed: {self._watch.failure}"
        return None

    def _check_heartbeat(self, _: Measurements) -> str | None:
        failing = self._ago(self._pacemaker.failing_since)
        if failing is not None and failing > UNWRITTEN:
            return f"no heartbeat was written in the last {failing:.1f} s: {self._pacemaker.failure}"
        return None

    def _check_outbox(self, _: Measurements) -> str | None:
        oldest = self._outbox.oldest
        if oldest is not None and oldest > UNWRITTEN:
            pending = len(self._outbox)
            writes = "1 write waits" if pending == 1 else f"{pending} writes wait"
            return f"{writes} for the store, the oldest for {oldest:.1f} s"
        return None

    def _check_refused_ends(self, _: Measurements) -> str | None:
        oldest = self._ago(self._refusals.oldest)
        if oldest is not None and oldest > UNWRITTEN:
            refused = len(self._refusals)
            ends = "the end of 1 run" if refused == 1 else f"the ends of {refused} runs"
            return f"the store refuses {ends}, the oldest for {oldest:.1f} s"
        return None

    def _check_event_loop(self, measured: Measurements) -> str | None:
        if measured.lag is not None and measured.lag >= STALLED_AFTER:
            return f"the event loop was blocked for {measured.lag:.1f} s"
        return None

    def _check_executor(self, _: Measurements) -> str | None:
        if (executor := self.executor) is not None and len(executor.outliving) >= executor.size:
            return f"all {executor.size} threads of the executor are occupied by jobs whose runs are over"
        return None

    async def _store_error(self) -> CoordinatorError | str | None:
        try:
            async with asyncio.timeout(READ_TIMEOUT):
                if isinstance(self._store, VersionedStore):
                    await self._store.check_version()
                await self._store.workers(counted=False)
        except TimeoutError:
            return f"no answer within {READ_TIMEOUT:g} s"
        except CoordinatorError as error:
            return error
        return None

    def _transport_error(self) -> str | None:
        adapters = (("hints", self._notifier), ("event logs", self._event_log))
        troubles = [(role, adapter.trouble) for role, adapter in adapters if isinstance(adapter, Explaining)]
        return "; ".join(f"{role}: {trouble}" for role, trouble in troubles if trouble) or None

    async def _lag(self) -> float | None:
        began = self._clock()
        await asyncio.sleep(0)
        return max(self._clock() - began, self._pacemaker.lag or 0.0)

    def _ago(self, moment: float | None) -> float | None:
        return None if moment is None else max(0.0, self._clock() - moment)
