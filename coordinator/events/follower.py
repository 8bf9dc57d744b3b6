"""Followers of a run: replay of its log, then live events, then its end. Events are neither lost nor
repeated, and missing ones are reported as gaps."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Self

from coordinator.errors import RunNotFound, StoreUnavailable
from coordinator.event_log import OMITTED, End, Event, EventId, EventLog, Gap, Page
from coordinator.event_logs.local import LocalEventLog
from coordinator.events.audience import Audience
from coordinator.events.cursor import Cursor
from coordinator.events.ending import LATE, PATIENCE, Ending, has_gap
from coordinator.events.followed import FollowedRun, FollowedRuns, LocalRuns
from coordinator.events.standing import Settled, Standings
from coordinator.notifier import Connectivity, Notifier, Wakeup
from coordinator.runs.jobs import Jobs
from coordinator.settings import Settings

_POLL = 0.05
"""Interval (s) of reads of a log that is late."""


class Readers:
    """Makes followers. `local`: the runs of this worker."""

    def __init__(
        self,
        log: EventLog,
        notifier: Notifier,
        settings: Settings,
        *,
        jobs: Jobs,
        standings: Standings,
        local: LocalRuns,
        audience: Audience,
    ) -> None:
        self.log, self.notifier, self.settings = log, notifier, settings
        self.standings, self.local, self.audience = standings, local, audience
        self.closed = False
        # In memory it is written with the emit, and other workers never read it.
        self.patience = 0.0 if isinstance(log, LocalEventLog) else LATE
        self.runs = FollowedRuns(
            log,
            local,
            standings,
            jobs=jobs,
            page_size=settings.follow_buffer,
            period=self.pause,
        )

    def follow(
        self,
        run_id: str,
        after: EventId | None,
        modes: Collection[str] | None,
        user_id: str | None,
        *,
        ends_with_log: bool = False,
    ) -> Follower:
        """`ends_with_log`: the iteration ends without an `End` when the log is closed, which may be before
        the run has settled."""
        return Follower(self, run_id, after, modes, user_id, ends_with_log=ends_with_log)

    @asynccontextmanager
    async def subscribed(self, thread_id: str, run_id: str) -> AsyncGenerator[tuple[Wakeup, FollowedRun]]:
        """One follower of a run: within the block, its wake-up is set by events and by the end."""
        async with self.notifier.watch(thread_id, run_id) as wakeup:
            self.audience.join(run_id)
            run = self.runs.join(thread_id, run_id, wakeup)
            try:
                if run.is_local():
                    yield wakeup, run
                else:
                    async with self.log.followed(thread_id, run_id):
                        yield wakeup, run
            finally:
                self.runs.leave(run, wakeup)
                self.audience.leave(run_id)

    async def read(
        self, run_id: str, after: EventId | None, limit: int, user_id: str | None
    ) -> list[Event | Gap]:
        """Returns the current content of the log, at most `limit` events. Raises RunNotFound,
        StoreUnavailable."""
        thread_id = (await self.standings(run_id, user_id)).thread_id
        cursor, items = Cursor(after), list[Event | Gap]()
        left = limit
        while left > 0:
            page = await self.log.read(thread_id, run_id, cursor.position, min(left, 1000))
            if page is None:
                return [*items, cursor.gap(None)]
            items += cursor.advance(page)
            left -= len(page.events)
            if not page.events:
                break
        return items

    def close(self) -> None:
        """Called before the store is closed: from then on a follower raises the store's errors, and does not
        retry."""
        self.closed = True
        self.audience.close()
        self.runs.close()

    def pause(self) -> float:
        """Seconds until a follower that receives no hint reads again; for a run of this worker, until its
        state in memory is examined again."""
        connected = self.notifier.connectivity is Connectivity.connected
        period = self.settings.tick if connected else self.settings.short_tick
        return period * random.uniform(1 - self.settings.jitter, 1)


class Follower:
    """An async iterator of events, gaps where events are missing, and exactly one `End`, which is the last
    item.

    The subscription ends at the end of the block if it is used as a context manager, else at `End` or when it
    is garbage-collected. If `__anext__` is cancelled (by a timeout for a heartbeat), no item is lost, and the
    iteration may be continued. A follower holds at most one page of the log. Raises RunNotFound, also if the
    run is deleted meanwhile, and StoreUnavailable after its manager was closed.
    """

    def __init__(
        self,
        readers: Readers,
        run_id: str,
        after: EventId | None,
        modes: Collection[str] | None,
        user_id: str | None,
        *,
        ends_with_log: bool = False,
    ) -> None:
        self._ends_with_log = ends_with_log
        self._readers, self.run_id, self._user_id = readers, run_id, user_id
        self._modes = None if modes is None else frozenset(modes)
        self._cursor = Cursor(after)
        self._items: list[Event | Gap | End] = []
        self._subscription: AbstractAsyncContextManager[tuple[Wakeup, FollowedRun]] | None = None
        self._wakeup: Wakeup | None = None
        self._run: FollowedRun | None = None
        self._settled: Settled | None = None
        self._ending = Ending(self._cursor, readers.patience)
        self._ahead_since: float | None = None
        # Whether the log is read before the next wait. Not needed if the previous page reached its end: later
        # events wake this follower, which saves one read of the log for each event and follower.
        self._log_is_due = True
        self._log_is_readable = True
        # Whether the run's row is read before the next wait. Not needed while events arrive, because the
        # owner closes the log before it settles the run, and an owner that died emits no events.
        self._row_is_due = True
        self._row_read_since = 0.0  # earlier reads of the row do not count (s, time.monotonic)
        self._over = False

    @property
    def position(self) -> EventId | None:
        """The entry of the log behind which it reads; None = the beginning."""
        return self._cursor.position

    async def __aenter__(self) -> Self:
        """Subscribes: even a follower of the log's tail receives every event that is emitted after this
        returns."""
        await self._open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Ends the iteration and the subscription. Idempotent."""
        self._over = True
        self._items.clear()
        await self._unsubscribe()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event | Gap | End:
        await self._fill(math.inf)
        item = self._items.pop(0)
        if isinstance(item, End):
            await self.aclose()
        return item

    async def batch(self, within: float = math.inf) -> list[Event | Gap | End]:
        """Returns all items that wait, as the iteration would. Waits for the first one for at most `within`
        (s), and returns an empty list then."""
        if not await self._fill(asyncio.get_running_loop().time() + within):
            return []
        items, self._items = self._items, []
        if isinstance(items[-1], End):
            await self.aclose()
        return items

    def encoded(self, event: Event, form: str, encode: Callable[[Event], bytes]) -> bytes:
        """Returns `encode(event)`, which is called once for all followers of the run that have reached the
        newest page. `form`: the name of the encoding."""
        run = self._run
        return run.pages.encoded(event, form, encode) if run is not None and run.is_shared else encode(event)

    async def _open(self) -> tuple[Wakeup, FollowedRun]:
        if self._wakeup is None or self._run is None:
            readers = self._readers
            thread_id, _, self._settled = await readers.standings(self.run_id, self._user_id)
            subscription = readers.subscribed(thread_id, self.run_id)
            wakeup, run = await subscription.__aenter__()
            self._subscription = subscription
            self._run, self._wakeup, self._row_read_since = run, wakeup, time.monotonic()
            if (page := await run.pages.after(self._cursor.position)) is not None:
                self._deliver(page)
        return self._wakeup, self._run

    async def _unsubscribe(self) -> None:
        self._wakeup = self._run = None
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await subscription.__aexit__(None, None, None)

    async def _fill(self, deadline: float) -> bool:
        """Reads and waits until an item is available. Returns False if the deadline (s, clock of the loop)
        passes before. May be cancelled at any await. Raises StopAsyncIteration if the iteration is over.

        The wait is here and not in a method, because each wake-up resumes every coroutine between the task
        and its wait."""
        loop = asyncio.get_running_loop()
        while not self._items:
            if self._over:
                raise StopAsyncIteration
            run, wakeup = self._run, self._wakeup
            if run is not None and wakeup is not None and self._is_read_in_memory(run):
                if self._over:  # that read has closed the log
                    continue
                pause = self._pause(wakeup, run)
                if await wakeup.wait(min(deadline - loop.time(), pause)):
                    # Else a read of another follower in the pause is enough.
                    self._row_read_since = time.monotonic()
                self._log_is_due = self._row_is_due = True
                if loop.time() >= deadline:
                    return False
            elif self._items:
                if self._log_is_due:  # a long log in memory must not block the loop
                    await asyncio.sleep(0)
            elif not await self._read_until(deadline):
                return False
        return True

    async def _read_until(self, deadline: float) -> bool:
        """Returns whether the read has ended before the deadline."""
        try:
            async with asyncio.timeout_at(None if deadline == math.inf else deadline):
                await self._read()
        except TimeoutError:
            return False
        return True

    def _is_read_in_memory(self, run: FollowedRun) -> bool:
        """Reads what this process has in memory. Returns whether the follower may wait then."""
        if self._settled is not None:
            return False
        if self._log_is_due and (page := run.pages.peek(self._cursor.position)) is not None:
            self._advance(page, run)
        if self._row_is_due and run.is_local():
            self._row_is_due = False
        return not (self._items or self._log_is_due or self._row_is_due)

    async def _read(self) -> None:
        """Reads the next page, or the row if that is due."""
        wakeup, run = await self._open()
        if self._items:  # `_open` has read a page
            return
        settled = self._settled  # taken before the log is read, so that the log is read to its end
        if settled is not None or self._log_is_due:
            page = await run.pages.after(self._cursor.position)
            if self._advance(page, run):
                return
            if settled is not None:
                await self._conclude(settled, page, wakeup)
                return
        if self._row_is_due and not run.is_local():
            await self._read_row(run)
        self._row_is_due = False

    def _pause(self, wakeup: Wakeup, run: FollowedRun) -> float:
        """Returns for how long (s) this follower waits at most before it reads again. Every event and the end
        of a run of this worker wake its followers, so that these do not poll."""
        position = self._cursor.position
        run.at(wakeup, position)
        polls = not (run.is_local() and self._log_is_readable and run.has_all(position))
        self._row_read_since = time.monotonic()
        return self._readers.pause() if polls else math.inf

    def _advance(self, page: Page | None, run: FollowedRun) -> bool:
        """Delivers a page that was read at the cursor. Returns whether the cursor has moved."""
        self._log_is_readable = page is not None
        if page is not None and self._deliver(page):
            self._log_is_due = not run.pages.is_last(page)
            self._ending.moved()
            self._row_is_due = self._cursor.closed
            return True
        self._log_is_due = False
        return False

    def _deliver(self, page: Page) -> bool:
        """Appends the items of a page. Returns whether the cursor has moved."""
        if self._is_early(page):
            return False
        before = self._cursor.position
        for item in self._cursor.advance(page):
            if isinstance(item, Gap) or self._is_wanted(item.mode):
                self._items.append(item)
        if self._ends_with_log and self._cursor.closed:
            self._over = True
        return self._cursor.position != before

    def _is_early(self, page: Page) -> bool:
        """Returns whether the log may still reach the cursor, which it has not reached: the client may have
        read further from the owner's memory."""
        run = self._run
        if page.events or not self._cursor.is_ahead_of(page.top) or run is None or run.is_local():
            self._ahead_since = None
            return False
        if self._settled is not None:
            return self._ending.is_due(self._settled)
        now = time.monotonic()
        self._ahead_since = self._ahead_since or now
        return now - self._ahead_since < PATIENCE

    def _is_wanted(self, mode: str) -> bool:
        if self._modes is None or mode == OMITTED:
            return True
        return mode in self._modes or mode.partition("|")[0] in self._modes

    async def _read_row(self, run: FollowedRun) -> None:
        try:
            standing = await run.standing(self._user_id, since=self._row_read_since)
        except StoreUnavailable:
            if not self._readers.closed:
                return
            await self.aclose()
            raise
        except RunNotFound:
            await self.aclose()
            raise
        self._settled = standing.settled

    async def _conclude(self, settled: Settled, page: Page | None, wakeup: Wakeup) -> None:
        """Appends the `End` of a settled run whose log was read to its end, or waits once if entries may
        still arrive."""
        cursor, proven = self._cursor, self._ending.is_proven(settled, page)
        if not proven and self._ending.may_arrive(settled, page):
            await wakeup.wait(_POLL)
            return
        if not proven and has_gap(settled, page):
            self._items.append(cursor.gap(None))
        complete = proven and cursor.complete
        self._items.append(
            End(self.run_id, settled.status, settled.error, settled.cause, cursor.last_id, complete)
        )
