"""The event log in the store, for workers without Redis, and for events that must outlive Redis.

The owner keeps a copy in memory for followers on the same worker, and writes to the store later
(write-behind), so an emit never waits for a commit. Events of all runs of a worker are written in one batch:
at most once in `PACE` while a run is followed on another worker, else after `LAZY` or when the run ends. A
follower on another worker marks the log as followed, and the owner receives the mark with the answer to its
next write.
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
from coordinator.telemetry.repeated import level_of_failure
from stores.events import EventPage, EventsKept, EventStore, Kept
from stores.tasks import begin_soon

logger = logging.getLogger(__name__)

PAGE_BYTES = 256 * 1024
"""A page ends after the event that reaches this size."""
PACE, PACE_FAR = 0.015, 0.005
"""Minimum interval (s) of a worker's writes while one of its runs is followed on another worker: for a store
with a single write lock, and for a server with concurrent writers."""
LAZY = 0.25
"""Seconds for which events wait for a batch while no other worker follows the run."""
TOGETHER = 0.05
"""Events that are due within this time (s) are written together with those that are due now."""
POLL = 0.01
"""Interval (s) of polls for new events of runs that are followed here, if the notifier does not announce
them."""
POLL_FAR = 0.05
"""The same for a store on a server."""
FOLLOWED = 20.0
"""Seconds for which a mark as followed is valid. It is renewed after half of them."""
LONGEST_REST = 0.5
"""Seconds after which the loss of the notifier's announcements is detected."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 0.3
"""Seconds between two attempts. Short, because a follower waits for the end of a log for seconds."""
_SLOW = 1.0
"""Seconds after which a write without an answer counts as an outage of the store."""


class StoreEventLog:
    """`ttl`: seconds after the last event. Followers on the owner read its memory, all others read the store.
    If the owner dies, the events of the last `LAZY` seconds may be lost: a follower that resumes after one of
    them waits for the log, and then receives a gap."""

    def __init__(self, store: EventStore, notifier: Notifier, ttl: float, *, pace: float = PACE) -> None:
        self._store, self._notifier, self._ttl, self._pace = store, notifier, ttl, pace
        self._local = LocalEventLog()
        self._backlog = Backlog()
        self._writing: asyncio.Task[None] | None = None
        self._write_now = asyncio.Event()
        self._began = float("-inf")
        self._busy_since: float | None = None
        self._failing = self._closed = False
        self._answered = asyncio.Event()
        """Set when a write has been answered, and replaced then."""
        self._followed: dict[str, tuple[str, int]] = {}
        self._watching: asyncio.Task[None] | None = None
        self._followers_changed = asyncio.Event()

    # -- on the owner

    @property
    def away(self) -> bool:
        return self._backlog.is_full and (self._failing or self._is_slow())

    def _is_slow(self) -> bool:
        return self._busy_since is not None and _now() - self._busy_since > _SLOW

    async def returned(self) -> None:
        await self._backlog.has_room.wait()

    async def append(self, thread_id: str, run_id: str, entry: Entry) -> Appended:
        """Returns `done` if the event is in memory and in the backlog, `lost` if the backlog is full."""
        if self._backlog.is_refused(run_id, entry.id.fence):
            return Appended.stale
        appended = self._local.add(run_id, entry)
        if appended is Appended.done and not self._closed:
            return self._queue(thread_id, run_id, entry, at=self._due(run_id, entry))
        return appended

    def reclaim(self, thread_id: str, run_id: str, fence: int) -> None:
        """Accepts the fence again in memory. The stored log needs nothing: the store checks the run's row
        itself."""
        self._local.reclaim(thread_id, run_id, fence)
        self._backlog.readmit(run_id, fence)

    def close(self, thread_id: str, run_id: str, entry: Entry) -> None:
        """Appends the last entry, which is due at once: it mostly shares the commit that settles the run."""
        self._local.add(run_id, entry)
        if not self._closed:
            self._queue(thread_id, run_id, entry, at=_now(), always=True)

    async def flushed(self, thread_id: str, run_id: str) -> None:
        while self._backlog.waits(run_id):
            await self._answered.wait()

    def inherit(self, run_id: str) -> None:
        self._local.begin_part(run_id)

    def forget(self, run_id: str) -> None:
        """Drops the copy in memory. Waiting events are still written."""
        self._local.forget(run_id)
        self._backlog.forget(run_id)

    def remove(self, thread_id: str, run_id: str) -> None:
        """Drops the copy in memory and waiting events. The store removes the log with the run's row."""
        self._local.remove(thread_id, run_id)
        self._backlog.discard(run_id)

    async def aclose(self) -> None:
        """Writes the backlog, and stops. Idempotent. The caller sets the timeout."""
        self._closed = True
        if self._watching is not None:
            self._watching.cancel()
        if (writing := self._writing) is not None:
            self._write_now.set()
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
            self._write_now.set()
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
        """Waits for `seconds`, or until a run has ended, because then the store has just answered."""
        self._write_now.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._write_now.wait()

    async def _is_time(self) -> bool:
        """Waits until an event is due. Returns False if an earlier one may have been added meanwhile."""
        self._write_now.clear()
        left = self._backlog.due - _now()
        if left <= 0 or self._closed:
            return True
        try:
            async with asyncio.timeout(left):
                await self._write_now.wait()
        except TimeoutError:
            return True
        return self._closed

    async def _write(self) -> bool:
        """Writes one transaction. Returns False if the store is unavailable; then the events stay in the
        backlog."""
        self._began = self._busy_since = _now()
        writing = self._backlog.take(until=float("inf") if self._closed else self._began + TOGETHER)
        try:
            answers = await self._store.append_events([batch.events for batch in writing], ttl=self._ttl)
        except StoreUnavailable as error:
            if not self._failing:
                logger.warning(
                    "Events of %d runs wait for the store, which is unavailable; they are written when it"
                    " answers: %s",
                    len(writing),
                    error,
                )
            self._backlog.failed(writing, self._began)
            return False
        except CoordinatorError as error:
            logger.log(
                level_of_failure(error),
                "The store refuses events of %d runs; they are missing in their logs, followers receive"
                " gaps: %s",
                len(writing),
                error,
            )
            answers = [EventsKept(Kept.gone, followed=False)] * len(writing)
        finally:
            self._busy_since = None
        for batch, answer in zip(writing, answers, strict=True):
            self._written(batch, answer)
        self._answered.set()
        self._answered = asyncio.Event()
        return True

    def _written(self, batch: Written, answer: EventsKept) -> None:
        self._backlog.written(batch, answer)
        if answer.followed:
            self._notifier.announce(batch.thread_id, batch.events.run_id, batch.top)

    # -- the followers' side

    async def read(self, thread_id: str, run_id: str, after: EventId | None, limit: int) -> Page | None:
        if (local := self.peek(run_id, after, limit)) is not None:
            return local
        try:
            page = await self._store.events(run_id, after, limit=limit, max_bytes=PAGE_BYTES)
        except CoordinatorError:
            return None
        if not page.events and self._local.has(run_id):  # memory is ahead of the store
            return self._local.peek(run_id, after, limit)
        return _page(page)

    def peek(self, run_id: str, after: EventId | None, limit: int) -> Page | None:
        return self._local.peek(run_id, after, limit) if self._local.covers(run_id, after) else None

    @asynccontextmanager
    async def followed(self, thread_id: str, run_id: str) -> AsyncGenerator[None]:
        _, count = self._followed.get(run_id, (thread_id, 0))
        self._followed[run_id] = thread_id, count + 1
        self._followers_changed.set()
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
                self._followers_changed.set()

    async def _watch(self) -> None:
        marked, version = dict[str, float](), None
        try:
            while self._followed:
                self._followers_changed.clear()
                now = _now()
                marked = {run: until for run, until in marked.items() if run in self._followed}
                unmarked = [run for run in self._followed if marked.get(run, 0.0) <= now]
                if unmarked and await self._mark(unmarked):
                    marked |= dict.fromkeys(unmarked, now + FOLLOWED / 2)
                if not self._notifier.announces:
                    version = await self._poll(version)
                await self._rest(min((marked.get(run, 0.0) for run in self._followed), default=0.0), version)
        finally:
            self._watching = None

    async def _rest(self, until: float, version: int | None) -> None:
        """Waits until the next mark or poll is due, or the set of followed runs changes."""
        poll = POLL_FAR if version is None else POLL
        rest = min(max(until - _now(), POLL_FAR), LONGEST_REST) if self._notifier.announces else poll
        with suppress(TimeoutError):
            async with asyncio.timeout(rest):
                await self._followers_changed.wait()

    async def _mark(self, run_ids: list[str]) -> bool:
        try:
            await self._store.follow_runs(run_ids, seconds=FOLLOWED, logs=True)
        except CoordinatorError:
            return False  # retried in the next round; followers detect the outage by their own reads
        return True

    async def _poll(self, version: int | None) -> int | None:
        """Notifies followers of the logs that have grown. Returns the version of the events that it read, or
        None if it is unknown."""
        current = self._store.events_version()
        if current is None or current != version:
            try:
                tops = await self._store.log_tops(list(self._followed))
            except CoordinatorError:
                return None
            for run_id, top in tops.items():
                if run_id in self._followed:
                    self._notifier.hint(self._followed[run_id][0], run_id, EventId(*top))
        return current


def _page(page: EventPage) -> Page | None:
    events = tuple(Event(EventId(fence, number), mode, json) for fence, number, mode, json in page.events)
    return Page(events, None if page.top is None else EventId(*page.top))


def _now() -> float:
    return asyncio.get_running_loop().time()
