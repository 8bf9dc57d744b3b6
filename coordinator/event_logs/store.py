"""The event log in the store, for workers that share one and no Redis, and for events that outlive a Redis.

The owner keeps a copy in memory, which serves those who follow here, and writes behind: an emit never waits
for a commit. What a worker has to write goes out together: soon where somebody follows on another worker, but
at most once in `PACE`; else when `LAZY` has passed or the run ends. A follower elsewhere marks the log as
followed, which the owner is answered with its next write.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

from coordinator.errors import CoordinatorError, StoreUnavailable
from coordinator.event_log import END, Appended, Entry, Event, EventId, Page
from coordinator.event_logs.backlog import Backlog, Written
from coordinator.event_logs.local import LocalEventLog
from coordinator.notifier import Notifier
from stores.events import EventPage, EventsKept, EventStore, Kept
from stores.tasks import begin_soon

logger = logging.getLogger(__name__)

PAGE_BYTES = 256 * 1024
"""A page ends after the event that reaches it."""
PACE, PACE_FAR = 0.015, 0.005
"""Seconds between two writes of a worker at least, while somebody follows one of its runs elsewhere: where
each takes the one write lock, and where a server takes many."""
LAZY = 0.25
"""Seconds for which events wait to be written together while nobody does."""
TOGETHER = 0.05
"""What is due within so many seconds is written with what is due now."""
POLL = 0.01
"""Seconds between two looks for news of runs that are followed here, where no bell rings."""
POLL_FAR = 0.05
"""The same where a look asks a server."""
FOLLOWED = 20.0
"""Seconds for which a mark says that a run is followed; renewed when half of them have passed."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 0.3
"""Seconds between two attempts. A follower waits for the end of a log for half a second after its run."""
_LONGEST_REST = 0.5
"""Seconds after which a bell that has gone is noticed."""
_SLOW = 1.0
"""Seconds after which a write that has no answer shows that the store is away."""


class StoreEventLog:
    """`ttl` (s) after the last event. A worker's own followers read what its memory has; the others read what
    is stored. A power cut, or a worker that dies, may take the events of the last `LAZY` seconds from the
    log: who goes on after one of them is told a gap."""

    def __init__(self, store: EventStore, notifier: Notifier, ttl: float, *, pace: float = PACE) -> None:
        self._store, self._notifier, self._ttl, self._pace = store, notifier, ttl, pace
        self._local = LocalEventLog()
        self._backlog = Backlog()
        self._writing: asyncio.Task[None] | None = None
        self._urged = asyncio.Event()
        self._began = float("-inf")
        self._busy_since: float | None = None
        self._failing = self._closed = False
        self._followed: dict[str, tuple[str, int]] = {}
        self._watching: asyncio.Task[None] | None = None
        self._joined = asyncio.Event()

    # -- the owner's side

    @property
    def away(self) -> bool:
        return self._backlog.is_full and (self._failing or self._is_slow())

    def _is_slow(self) -> bool:
        return self._busy_since is not None and _now() - self._busy_since > _SLOW

    async def returned(self) -> None:
        await self._backlog.has_room.wait()

    async def append(self, thread_id: str, run_id: str, entry: Entry) -> Appended:
        """`done` where memory has it and it is going to be written; `lost` where too much waits for that."""
        if self._backlog.is_refused(run_id, entry.id.fence):
            return Appended.stale
        appended = await self._local.append(thread_id, run_id, entry)
        if appended is Appended.done and not self._closed:
            return self._queue(thread_id, run_id, entry, at=self._due(run_id, entry))
        return appended

    def reclaim(self, thread_id: str, run_id: str, fence: int) -> None:
        """The store decides by the run's row, and its events are in the same store."""
        self._local.reclaim(thread_id, run_id, fence)
        self._backlog.readmit(run_id, fence)

    def close(self, thread_id: str, run_id: str, entry: Entry) -> None:
        """Written at once: mostly with the commit that settles the run."""
        self._local.close(thread_id, run_id, entry)
        if not self._closed:
            self._queue(thread_id, run_id, entry, at=_now(), always=True)

    def forget(self, run_id: str) -> None:
        """The store has it, or is about to."""
        self._local.forget(run_id)
        self._backlog.forget(run_id)

    def remove(self, thread_id: str, run_id: str) -> None:
        """What is stored goes with the run's row."""
        self._local.remove(thread_id, run_id)
        self._backlog.discard(run_id)

    async def aclose(self) -> None:
        """Write what waits, and stop. Idempotent. Takes as long as the store does."""
        self._closed = True
        if self._watching is not None:
            self._watching.cancel()
        if (writing := self._writing) is not None:
            self._urged.set()
            try:
                await asyncio.wait((writing,))
            finally:
                writing.cancel()

    def _due(self, run_id: str, entry: Entry) -> float:
        now = _now()
        if entry.mode == END or self._backlog.is_crowded:
            return now
        return max(now, self._began + self._pace) if self._backlog.is_followed(run_id) else now + LAZY

    def _queue(
        self, thread_id: str, run_id: str, entry: Entry, *, at: float, always: bool = False
    ) -> Appended:
        before, last = self._backlog.due, entry.mode == END
        if not self._backlog.add(thread_id, run_id, entry, at=at, always=always):
            return Appended.lost
        if self._writing is None:
            self._writing = begin_soon(self._write_all(), name="writing event logs")
        elif self._backlog.due < before or last:
            self._urged.set()
        return Appended.done

    async def _write_all(self) -> None:
        pause = _FIRST_PAUSE
        try:
            while self._backlog:
                if not await self._is_time():
                    continue
                self._failing = not await self._write()
                if not self._failing:
                    pause = _FIRST_PAUSE
                elif self._closed:
                    return
                else:
                    await self._pause(pause)
                    pause = min(pause * 2, _LONGEST_PAUSE)
        finally:
            self._writing = None

    async def _pause(self, seconds: float) -> None:
        """Or until a run has ended: then the store has just answered somebody."""
        self._urged.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._urged.wait()

    async def _is_time(self) -> bool:
        """Wait until something is due. False: something else may be due earlier now."""
        self._urged.clear()
        left = self._backlog.due - _now()
        if left <= 0 or self._closed:
            return True
        try:
            async with asyncio.timeout(left):
                await self._urged.wait()
        except TimeoutError:
            return True
        return self._closed

    async def _write(self) -> bool:
        """One transaction. False: the store did not take it, and it stays."""
        self._began = self._busy_since = _now()
        writing = self._backlog.take(until=float("inf") if self._closed else self._began + TOGETHER)
        try:
            answers = await self._store.append_events([one.events for one in writing], ttl=self._ttl)
        except StoreUnavailable as error:
            if not self._failing:
                logger.warning("Events of %d runs wait for the store: %s", len(writing), error)
            self._backlog.failed(writing, self._began)
            return False
        except CoordinatorError as error:
            logger.warning(
                "The store refuses events of %d runs, which are missing in their logs: %s",
                len(writing),
                error,
            )
            answers = [EventsKept(Kept.gone, followed=False)] * len(writing)
        finally:
            self._busy_since = None
        for one, answer in zip(writing, answers, strict=True):
            self._written(one, answer)
        return True

    def _written(self, one: Written, answer: EventsKept) -> None:
        self._backlog.written(one, answer)
        if answer.followed:
            self._notifier.announce(one.thread_id, one.events.run_id, one.top)

    # -- the followers' side

    async def read(self, thread_id: str, run_id: str, after: EventId | None, limit: int) -> Page | None:
        if self._local.covers(run_id, after):
            return await self._local.read(thread_id, run_id, after, limit)
        try:
            page = await self._store.events(run_id, after, limit=limit, max_bytes=PAGE_BYTES)
        except CoordinatorError:
            return None
        if not page.events and self._local.has(run_id):  # it is ahead of the store
            return await self._local.read(thread_id, run_id, after, limit)
        return _page(page)

    @asynccontextmanager
    async def followed(self, thread_id: str, run_id: str) -> AsyncGenerator[None]:
        _, count = self._followed.get(run_id, (thread_id, 0))
        self._followed[run_id] = thread_id, count + 1
        self._joined.set()
        if self._watching is None and not self._closed:
            self._watching = begin_soon(self._watch(), name="watching event logs")
        try:
            yield
        finally:
            _, count = self._followed[run_id]
            if count > 1:
                self._followed[run_id] = thread_id, count - 1
            else:
                del self._followed[run_id]
                self._joined.set()

    async def _watch(self) -> None:
        marked, version = dict[str, float](), None
        try:
            while self._followed:
                self._joined.clear()
                now = _now()
                marked = {run: until for run, until in marked.items() if run in self._followed}
                unmarked = [run for run in self._followed if marked.get(run, 0.0) <= now]
                if unmarked and await self._mark(unmarked):
                    marked |= dict.fromkeys(unmarked, now + FOLLOWED / 2)
                if not self._notifier.announces:
                    version = await self._look(version)
                await self._rest(min((marked.get(run, 0.0) for run in self._followed), default=0.0), version)
        finally:
            self._watching = None

    async def _rest(self, until: float, version: int | None) -> None:
        """Until the next mark or the next look, or until somebody joins or leaves."""
        poll = POLL_FAR if version is None else POLL
        rest = min(max(until - _now(), POLL_FAR), _LONGEST_REST) if self._notifier.announces else poll
        with suppress(TimeoutError):
            async with asyncio.timeout(rest):
                await self._joined.wait()

    async def _mark(self, run_ids: list[str]) -> bool:
        try:
            await self._store.follow_runs(run_ids, seconds=FOLLOWED, logs=True)
        except CoordinatorError:
            return False  # its followers see for themselves that the store is away
        return True

    async def _look(self, version: int | None) -> int | None:
        """Ring for those whose logs have grown. Answers the version of what was looked at."""
        found = self._store.events_version()
        if found is None or found != version:
            try:
                tops = await self._store.log_tops(list(self._followed))
            except CoordinatorError:
                return None
            for run_id, top in tops.items():
                if run_id in self._followed:
                    self._notifier.hint(self._followed[run_id][0], run_id, EventId(*top))
        return found


def _page(page: EventPage) -> Page | None:
    events = tuple(Event(EventId(fence, number), mode, json) for fence, number, mode, json in page.events)
    return Page(events, None if page.top is None else EventId(*page.top))


def _now() -> float:
    return asyncio.get_running_loop().time()
