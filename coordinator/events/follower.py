"""Following a run: replay, then live, then its end, with nothing lost, repeated or passed over in silence."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Collection
from contextlib import AsyncExitStack
from typing import Self
from weakref import WeakValueDictionary

from coordinator.errors import RunNotFound, StoreUnavailable
from coordinator.event_log import End, Event, EventId, EventLog, Gap, Page
from coordinator.events.audience import Audience
from coordinator.events.cursor import Cursor
from coordinator.events.pages import Pages
from coordinator.events.standing import Settled, Standing
from coordinator.notifier import Connectivity, Notifier, Wakeup
from coordinator.runs.jobs import Jobs
from coordinator.settings import Settings

_GRACE = 0.5
"""Seconds that the last entry of a log gets to arrive after the row of its run. It is sent first, but on
another way. An owner that died has sent none."""

_FIRST_GRACE = 0.2
"""Seconds that the first entry gets of a run of which nothing was seen: mostly it has emitted nothing."""

_OUTAGE = 2.0
"""Seconds that a log which cannot be read gets to come back: what the link takes to heal."""

_PAUSE = 0.05
_LONG_AGO = 5.0


class Readers:
    """Makes followers. `emitted(run_id)`: did the run emit anything? None where this worker does not have
    it."""

    def __init__(
        self,
        log: EventLog,
        notifier: Notifier,
        settings: Settings,
        *,
        jobs: Jobs,
        standing: Standing,
        emitted: Callable[[str], bool | None],
        audience: Audience,
    ) -> None:
        self.log, self.notifier, self.settings, self._jobs = log, notifier, settings, jobs
        self.standing, self.emitted = standing, emitted
        self.closed = False
        self._pages: WeakValueDictionary[str, Pages] = WeakValueDictionary()
        self.audience = audience

    def follow(
        self, run_id: str, after: EventId | None, modes: Collection[str] | None, user_id: str | None
    ) -> Follower:
        return Follower(self, run_id, after, modes, user_id)

    async def read(
        self, run_id: str, after: EventId | None, limit: int, user_id: str | None
    ) -> list[Event | Gap]:
        """What the log has now, at most `limit` events."""
        thread_id, _ = await self.standing(run_id, user_id)
        cursor, told = Cursor(after), list[Event | Gap]()
        left = limit
        while left > 0:
            page = await self.log.read(thread_id, run_id, cursor.position, min(left, 1000))
            if page is None:
                return [*told, cursor.gap(None)]
            told += cursor.advance(page)
            left -= len(page.events)
            if not page.events:
                break
        return told

    def pages(self, thread_id: str, run_id: str) -> Pages:
        pages = self._pages.get(run_id)
        if pages is None:
            pages = Pages(self.log, self._jobs, thread_id, run_id, self.settings.follow_buffer)
            self._pages[run_id] = pages
        return pages

    def close(self) -> None:
        """The store is let go of: a follower to whom it does not answer any more ends with an error."""
        self.closed = True
        self.audience.close()

    def pause(self) -> float:
        """Until the next look that nobody hints at."""
        connected = self.notifier.connectivity is Connectivity.connected
        period = self.settings.tick if connected else self.settings.short_tick
        return period * random.uniform(1 - self.settings.jitter, 1)


class Follower:
    """Iterate over it: events, gaps where something is missing, and exactly one `End`, which is the last.

    As a context manager it lets go of its subscription at the end of the block, else at `End` or when it
    is collected. A cancelled `__anext__` (a time-out for a heartbeat) loses nothing: iterate on. Holds at
    most one page of the log. Raises RunNotFound, also when the run is deleted meanwhile, and
    StoreUnavailable once its manager is closed.
    """

    def __init__(
        self,
        readers: Readers,
        run_id: str,
        after: EventId | None,
        modes: Collection[str] | None,
        user_id: str | None,
    ) -> None:
        self._readers, self.run_id, self._user_id = readers, run_id, user_id
        self._modes = None if modes is None else frozenset(modes)
        self._cursor = Cursor(after)
        self._told: deque[Event | Gap | End] = deque()
        self._stack = AsyncExitStack()
        self._wakeup: Wakeup | None = None
        self._pages: Pages | None = None
        self._settled: Settled | None = None
        self._waiting_since: float | None = None
        self._readable_since: float | None = None
        # The page before held all there was. What came since has rung the bell, so that the log need not
        # be asked whether there is more: for each event, by each follower.
        self._caught_up = False
        # While events come the row has nothing to say: its owner closes the log before it settles the run,
        # and an owner that cannot brings no more events.
        self._row_is_due = True
        self._over = False

    async def __aenter__(self) -> Self:
        """Subscribe now: what is emitted from here on is told even to a follower of the tail."""
        await self._open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Idempotent. Iteration ends."""
        self._over = True
        self._told.clear()
        await self._leave()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event | Gap | End:
        while not self._told:
            if self._over:
                raise StopAsyncIteration
            await self._look()
        told = self._told.popleft()
        if isinstance(told, End):
            await self.aclose()
        return told

    async def _open(self) -> tuple[Wakeup, Pages]:
        if self._wakeup is None or self._pages is None:
            readers = self._readers
            thread_id, self._settled = await readers.standing(self.run_id, self._user_id)
            watch = readers.notifier.watch(thread_id, self.run_id)
            wakeup = await self._stack.enter_async_context(watch)
            self._stack.enter_context(readers.audience.listening(self.run_id))
            if readers.emitted(self.run_id) is None:
                await self._stack.enter_async_context(readers.log.followed(thread_id, self.run_id))
            self._pages, self._wakeup = readers.pages(thread_id, self.run_id), wakeup
            if (page := await self._pages.after(self._cursor.position)) is not None:
                self._tell(page)
        return self._wakeup, self._pages

    async def _leave(self) -> None:
        self._wakeup = self._pages = None
        await self._stack.aclose()

    async def _look(self) -> None:
        """One step: something to tell, or one wait. What it awaits may be cancelled."""
        wakeup, pages = await self._open()
        if self._told:  # by what the log held already
            return
        settled = self._settled  # known before the log is read: then the log is read to its end
        if settled is not None or not self._caught_up:
            page = await pages.after(self._cursor.position)
            if page is not None and self._tell(page):
                self._caught_up, self._readable_since = pages.is_last(page), None
                self._row_is_due = self._cursor.closed
                return
            if settled is not None:
                await self._conclude(settled, page, wakeup)
                return
        if not (self._row_is_due and await self._has_settled()):
            self._caught_up, self._row_is_due = False, True
            await wakeup.wait(self._readers.pause())

    def _tell(self, page: Page) -> bool:
        """Whether the reader has moved."""
        before = self._cursor.position
        for told in self._cursor.advance(page):
            if isinstance(told, Gap) or self._is_wanted(told.mode):
                self._told.append(told)
        return self._cursor.position != before

    def _is_wanted(self, mode: str) -> bool:
        return self._modes is None or mode in self._modes or mode.partition("|")[0] in self._modes

    async def _has_settled(self) -> bool:
        try:
            _, self._settled = await self._readers.standing(self.run_id, self._user_id)
        except StoreUnavailable:
            if not self._readers.closed:
                return False
            await self.aclose()
            raise
        except RunNotFound:
            await self.aclose()
            raise
        return self._settled is not None

    async def _conclude(self, settled: Settled, page: Page | None, wakeup: Wakeup) -> None:
        """The run has settled and the log was read to its end, as far as it can be read."""
        cursor = self._cursor
        no_log = page is not None and page.top is None
        emitted = self._readers.emitted(self.run_id)
        nothing = not settled.started or emitted is False
        proven = cursor.closed or (no_log and nothing and cursor.position is None)
        never_seen = no_log and cursor.position is None and not emitted
        grace = _FIRST_GRACE if never_seen else _GRACE
        if not proven and cursor.complete and self._may_come(settled, page, grace):
            await wakeup.wait(_PAUSE)
            return
        if not proven and (page is None or no_log):  # what the log took, if anything, is not to be had
            self._told.append(cursor.gap(None))
        complete = proven and cursor.complete
        self._told.append(
            End(self.run_id, settled.status, settled.error, settled.cause, cursor.last_id, complete)
        )

    def _may_come(self, settled: Settled, page: Page | None, grace: float) -> bool:
        """Is it too early to give up on the rest of the log?"""
        now = time.monotonic()
        self._waiting_since = self._waiting_since or now
        if page is None:
            self._readable_since = None
            return now - self._waiting_since < _OUTAGE
        # The owner has met the same outage: what it has kept comes when its own link is back.
        self._readable_since = self._readable_since or now
        return now - self._readable_since < grace and time.time() - settled.at < _LONG_AGO
