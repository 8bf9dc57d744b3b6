"""The runs that are followed on this worker, and what the followers of one run share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple

from coordinator.errors import RunNotFound
from coordinator.event_log import EventId, EventLog
from coordinator.events.pages import Pages
from coordinator.events.standing import Standing, Standings
from coordinator.events.writer import EventWriter
from coordinator.notifier import Wakeup
from coordinator.runs.entry import Entry
from coordinator.runs.jobs import Jobs
from coordinator.runs.registry import Registry
from stores.tasks import begin_soon


class LocalRuns:
    """The runs of this worker, as followers know them."""

    def __init__(self, registry: Registry, writer: EventWriter) -> None:
        self._registry, self._writer = registry, writer

    def entry(self, run_id: str) -> Entry | None:
        """Returns the run if this worker has it in memory and settles it, or has settled it."""
        entry = self._registry.entry(run_id)
        return None if entry is None or entry.elsewhere else entry

    def appended(self, run_id: str) -> EventId | None:
        return self._writer.appended(run_id)


class _Read(NamedTuple):
    """An answer of the store. `began`: when it was requested (s, time.monotonic)."""

    began: float
    answer: Standing | Exception


class FollowedRun:
    """Shared by the followers of one run on this worker: reads of its log and of its row, and the end of a
    run of this worker."""

    def __init__(self, run_id: str, local: LocalRuns, standings: Standings, pages: Pages) -> None:
        self.run_id, self.pages = run_id, pages
        self._local, self._standings = local, standings
        self._entry: Entry | None = None
        self._wakeups: dict[Wakeup, EventId | None] = {}  # with the position of the follower
        self._reading: asyncio.Task[_Read] | None = None
        self._began = 0.0
        self._answer: _Read | None = None
        self.closed = False

    def __bool__(self) -> bool:
        return bool(self._wakeups)

    # -- a run of this worker

    def is_local(self) -> bool:
        """Whether this worker decides when the run settles. Then its followers are woken when it has settled
        (in a later turn of the loop), and within a tick when this worker has lost it or dropped it."""
        entry = self._local.entry(self.run_id)
        if entry is None or entry.settled.is_set() or self.closed:
            return False
        if entry is not self._entry:
            self._watch(entry)
        return True

    def _watch(self, entry: Entry | None) -> None:
        if self._entry is not None:
            self._entry.settled.unsubscribe(self._over)
        self._entry = entry
        if entry is not None:
            entry.settled.subscribe(self._over)

    def _over(self, _: object) -> None:
        """Called when this worker has settled or lost the run. A lost one may be continued by another worker,
        whose events are not in the memory of this one."""
        if self._entry is not None and self._entry.elsewhere:
            self.pages.forget()
        self.wake()

    def check(self) -> None:
        """Wakes the followers of a run that this worker does not decide any more, and those that have not
        read the newest event that it has appended. Called at every tick; makes no I/O."""
        if self._entry is None:
            return
        if not self.is_local():
            self._watch(None)
            self.wake()
        elif (newest := self._local.appended(self.run_id)) is not None:
            for wakeup, position in self._wakeups.items():
                if position is None or position < newest:
                    wakeup.set()

    def has_all(self, position: EventId | None) -> bool:
        """Returns whether a reader at `position` has read every event that this worker has appended."""
        newest = self._local.appended(self.run_id)
        return newest is None or (position is not None and position >= newest)

    # -- its followers

    @property
    def is_shared(self) -> bool:
        return len(self._wakeups) > 1

    def join(self, wakeup: Wakeup) -> None:
        self._wakeups[wakeup] = None

    def leave(self, wakeup: Wakeup) -> None:
        del self._wakeups[wakeup]
        if not self._wakeups:
            self._watch(None)
            if self._reading is not None:
                self._reading.cancel()

    def at(self, wakeup: Wakeup, position: EventId | None) -> None:
        """Notes the position of a follower that is about to wait."""
        self._wakeups[wakeup] = position

    def wake(self) -> None:
        for wakeup in self._wakeups:
            wakeup.set()

    # -- its row

    async def standing(self, user_id: str | None, *, since: float) -> Standing:
        """Returns the status in the row: by a read that began after `since` (s, time.monotonic), or by this
        call. Raises RunNotFound, StoreUnavailable."""
        read = self._answer
        if read is None or read.began <= since:
            if self._reading is not None and self._began <= since:
                await asyncio.shield(self._reading)
            read = await asyncio.shield(self._reading or self._begin())
        answer = read.answer
        if isinstance(answer, Exception):
            raise answer
        if user_id is not None and answer.user_id != user_id:
            raise RunNotFound(self.run_id)
        return answer

    def _begin(self) -> asyncio.Task[_Read]:
        self._began = time.monotonic()
        self._reading = begin_soon(self._read(), name=f"reading the row of run {self.run_id!r}")
        return self._reading

    async def _read(self) -> _Read:
        began = self._began
        answer: Standing | Exception
        try:
            answer = await self._standings(self.run_id)
        except Exception as error:  # noqa: BLE001 - raised at each follower that waits for the answer
            answer = error
        else:
            if answer.settled is not None:
                self.wake()
        finally:
            self._reading = None
        self._answer = _Read(began, answer)
        return self._answer


class FollowedRuns:
    """`period()`: seconds until the next tick."""

    def __init__(
        self,
        log: EventLog,
        local: LocalRuns,
        standings: Standings,
        *,
        jobs: Jobs,
        page_size: int,
        period: Callable[[], float],
    ) -> None:
        self._log, self._local, self._standings, self._jobs = log, local, standings, jobs
        self._page_size, self._period = page_size, period
        self._runs: dict[str, FollowedRun] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def join(self, thread_id: str, run_id: str, wakeup: Wakeup) -> FollowedRun:
        """The run is followed from now on; `wakeup` wakes its follower. `leave` ends it."""
        run = self._runs.get(run_id)
        if run is None:
            pages = Pages(self._log, self._jobs, thread_id, run_id, self._page_size)
            run = self._runs[run_id] = FollowedRun(run_id, self._local, self._standings, pages)
            run.closed = self._closed
        if self._timer is None and not self._closed:
            self._arm()
        run.join(wakeup)
        return run

    def leave(self, run: FollowedRun, wakeup: Wakeup) -> None:
        run.leave(wakeup)
        if not run:
            self._runs.pop(run.run_id, None)
        if not self._runs and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> None:
        """Wakes all followers, which then read the store. Idempotent."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for run in self._runs.values():
            run.closed = True
            run.wake()

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._period(), self._tick)

    def _tick(self) -> None:
        for run in self._runs.values():
            run.check()
        self._arm()
