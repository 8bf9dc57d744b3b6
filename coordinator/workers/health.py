"""Health: how this worker is, role by role. Every number is of this moment, none is kept for show."""

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
from coordinator.runs.refusals import Refusals
from coordinator.settings import Settings
from coordinator.workers.executor import TrackingExecutor
from coordinator.workers.lease import Pacemaker
from coordinator.workers.reaper import Reaper
from coordinator.workers.stall import STALLED_AFTER
from coordinator.workers.watch import Watch
from coordinator.workers.worker import Worker
from stores.base import GatedStore, VersionedStore, WorkerStore
from stores.outbox import Outbox
from stores.sql.readable import unreadable_rows

ASK_WITHIN = 1.0  # s; a store that takes longer to answer one small read is not reachable
MISSED = 5  # ticks, or sweeps, in a row
UNWRITTEN = 3.0  # s; writes that are taken no later than that are no reason to send runs elsewhere


@dataclass(frozen=True, slots=True)
class Health:
    """`ready`: may be sent new runs; `why_not` says what is wrong. Redis being away makes no worker
    unready, for it works without; being deaf in both ways (no tick succeeds) does. Times are seconds."""

    state: str
    """unregistered, live, fenced (between two epochs) or draining."""
    epoch: int
    lease_remaining: float | None
    """None where the lease never ends: nobody else uses the store."""
    store_reachable: bool
    store_error: str | None
    blocked_by: int | None
    """The process that keeps all others from writing at this moment."""
    connectivity: Connectivity
    transport_error: str | None
    """Why hints do not travel, or why event logs take nothing."""
    ticked_ago: float | None
    swept_ago: float | None
    loop_lag: float | None
    """The longer of what the loop took just now and when the heartbeat asked it last."""
    thread_jobs: int | None
    """Jobs that runs and others have in threads; None where no executor counts them."""
    outliving: tuple[str, ...]
    """For each job whose run is over: the run. Until it ends, it has a thread of the executor."""
    unreadable_rows: int
    """Rows of the store that this process could not read, and left out of lists."""
    ready: bool
    why_not: tuple[str, ...]


class Seen(NamedTuple):
    """What an examination has found out before it asks its checks."""

    state: str
    store_error: CoordinatorError | str | None
    ticked: float | None
    lag: float | None


Check = Callable[[Seen], str | None]


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
        clock: Callable[[], float] = boottime,
    ) -> None:
        self._store, self._settings, self._worker, self._pacemaker = store, settings, worker, pacemaker
        self._notifier, self._watch, self._reaper, self._clock = notifier, watch, reaper, clock
        self._event_log = event_log
        self._outbox, self._refusals = outbox, refusals
        self.executor: TrackingExecutor | None = None
        """The event loop's default executor, where it is one that tracks thread jobs."""
        self.checks: dict[str, Check] = {
            "worker": self._lives,
            "store": self._store_answers,
            "ticks": self._ticks,
            "failing ticks": self._ticks_succeed,
            "heartbeat": self._heart_writes,
            "owed writes": self._owed_are_written,
            "refused ends": self._ends_are_taken,
            "event loop": self._loop_turns,
            "threads": self._threads_are_left,
        }
        """By name: each says what is wrong, or None. Any of them makes the worker not ready."""

    async def health(self) -> Health:
        """Asks the store one small question, for at most ASK_WITHIN. Never raises."""
        error, lag = await self._store_error(), await self._lag()
        remaining = self._worker.lease.remaining
        ticked, swept = self._ago(self._watch.ticked_at), self._ago(self._reaper.swept_at)
        state, executor = self._state(), self.executor
        seen = Seen(state, error, ticked, lag)
        why_not = tuple(told for check in self.checks.values() if (told := check(seen)) is not None)
        return Health(
            state=state,
            epoch=self._worker.epoch,
            lease_remaining=None if remaining == math.inf else remaining,
            store_reachable=error is None,
            store_error=None if error is None else str(error),
            blocked_by=self._store.writer_pid() if isinstance(self._store, GatedStore) else None,
            connectivity=self._notifier.connectivity,
            transport_error=self._transport_error(),
            ticked_ago=ticked,
            swept_ago=swept,
            loop_lag=lag,
            thread_jobs=None if executor is None else executor.jobs,
            outliving=() if executor is None else executor.outliving,
            unreadable_rows=unreadable_rows(),
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

    def _lives(self, seen: Seen) -> str | None:
        return None if seen.state == "live" else f"the worker is {seen.state}"

    def _store_answers(self, seen: Seen) -> str | None:
        error = seen.store_error
        if error is None or isinstance(error, SchemaTooNew):
            return None if error is None else str(error)
        return f"the store does not answer: {error}"

    def _ticks(self, seen: Seen) -> str | None:
        if seen.ticked is not None and seen.ticked > MISSED * self._settings.tick:
            return f"deaf: the last tick was {seen.ticked:.1f} s ago"
        return None

    def _ticks_succeed(self, _: Seen) -> str | None:
        failing = self._ago(self._watch.failing_since)
        if failing is not None and failing > MISSED * self._settings.tick:
            return f"all ticks of the last {failing:.1f} s failed: {self._watch.failure}"
        return None

    def _heart_writes(self, _: Seen) -> str | None:
        failing = self._ago(self._pacemaker.failing_since)
        if failing is not None and failing > UNWRITTEN:
            return f"no heartbeat was written in the last {failing:.1f} s: {self._pacemaker.failure}"
        return None

    def _owed_are_written(self, _: Seen) -> str | None:
        oldest = self._outbox.oldest
        if oldest is not None and oldest > UNWRITTEN:
            return f"{len(self._outbox)} writes wait for the store, the oldest for {oldest:.1f} s"
        return None

    def _ends_are_taken(self, _: Seen) -> str | None:
        oldest = self._ago(self._refusals.oldest)
        if oldest is not None and oldest > UNWRITTEN:
            return f"the store refuses the ends of {len(self._refusals)} runs, the oldest for {oldest:.1f} s"
        return None

    def _loop_turns(self, seen: Seen) -> str | None:
        if seen.lag is not None and seen.lag >= STALLED_AFTER:
            return f"the event loop stood still for {seen.lag:.1f} s"
        return None

    def _threads_are_left(self, _: Seen) -> str | None:
        if (executor := self.executor) is not None and len(executor.outliving) >= executor.size:
            return f"all {executor.size} threads are taken by jobs whose runs are over"
        return None

    async def _store_error(self) -> CoordinatorError | str | None:
        try:
            async with asyncio.timeout(ASK_WITHIN):
                if isinstance(self._store, VersionedStore):
                    await self._store.check_version()
                await self._store.workers(counted=False)
        except TimeoutError:
            return f"no answer within {ASK_WITHIN:g} s"
        except CoordinatorError as error:
            return error
        return None

    def _transport_error(self) -> str | None:
        parts = (("hints", self._notifier), ("event logs", self._event_log))
        troubles = [(what, part.trouble) for what, part in parts if isinstance(part, Explaining)]
        return "; ".join(f"{what}: {trouble}" for what, trouble in troubles if trouble) or None

    async def _lag(self) -> float | None:
        began = self._clock()
        await asyncio.sleep(0)
        return max(self._clock() - began, self._pacemaker.lag or 0.0)

    def _ago(self, moment: float | None) -> float | None:
        return None if moment is None else max(0.0, self._clock() - moment)
