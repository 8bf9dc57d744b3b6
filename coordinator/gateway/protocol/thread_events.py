"""The events of all runs of a thread, one run after another, from any place on.

A place leads to the run that has its fence, and to the event in the log of that run; the runs after it follow
in the order of their fences. Nothing is remembered between two connections.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Self

from coordinator.errors import RunNotFound, StoreUnavailable, ThreadNotFound
from coordinator.event_log import End, Event, EventId, Gap
from coordinator.events.follower import Follower
from coordinator.gateway.long_lived_responses import ResponseAborted
from coordinator.gateway.protocol.channels import Selection, address_of
from coordinator.gateway.protocol.events import (
    Missing,
    ProtocolEvent,
    begun,
    body_in_log,
    ended,
    method_of,
    seq_in_log,
)
from coordinator.gateway.protocol.places import BEGIN, END, FIRST_INTERRUPT, Place, seq_of_event
from coordinator.manager import RunManager
from coordinator.notifier import Wakeup
from stores.rows import RunRow

Item = ProtocolEvent | Missing

_POLL, _SLOW_POLL, _QUICK_POLLS = 0.5, 2.0, 60
"""Seconds between two reads of the next run, if no hint arrives: the first ones, and the later ones of a
thread without runs. Commands and ends of runs give hints; the starts of runs by other routes do not."""
_CHECK = 4
"""The thread itself is read with every fourth of these."""
_REPLAYED_RUNS = 100
_REPLAYED_FOR = 900.0
"""Without a place, a client gets the newest runs that are in flight or have settled within this time (s):
older ones have no log any more, by default."""


class ThreadEvents:
    """Within its block, `batch` returns what comes next. It raises ThreadNotFound if the thread is removed,
    and ResponseAborted if the manager is closed."""

    def __init__(
        self,
        manager: RunManager,
        thread_id: str,
        selection: Selection,
        *,
        user_id: str | None,
        since: int | None = None,
        may_be_new: bool = False,
    ) -> None:
        """`since`: only events behind that place; None or 0 = from the oldest that is kept. `may_be_new`: the
        thread need not exist yet. Raises InvalidArgument."""
        self._manager, self._thread_id, self._user_id = manager, thread_id, user_id
        self._exists = not may_be_new
        self.selection = selection
        """May be replaced: that of the events behind `seq`."""
        self.seq = since or 0
        """The place of the last event that was returned, or that was left out as not subscribed to."""
        self._resume = Place.of(since) if since else None
        self._after = 0
        """The fence of the last run that was streamed."""
        self._changes: AbstractAsyncContextManager[Wakeup] | None = None
        self._wakeup: Wakeup | None = None
        self._run: _Run | None = None
        self._polls = 0
        self._first: list[Item] = []

    async def __aenter__(self) -> Self:
        self._changes = self._manager.threads.changes(self._thread_id)
        self._wakeup = await self._changes.__aenter__()
        if self._resume is None:
            self._after = await self._fence_before_kept_runs()
        else:
            place = await self._reached(self._resume)
            self._after = max(0, place.fence - (place.number < END))
        return self

    async def _reached(self, place: Place) -> Place:
        """Returns `place`, or the newest place of the thread if its runs have not reached `place`: then the
        client gets a gap, and what comes. Raises ThreadNotFound."""
        try:
            thread = await self._manager.threads.get(
                self._thread_id, with_values=False, user_id=self._user_id
            )
        except ThreadNotFound:
            if self._exists:
                raise
            return place  # if the thread existed before, its fences go on where they were
        fence = thread.fence
        if place.fence < fence or (place.fence == fence and place.number < FIRST_INTERRUPT):
            return place  # the log of the run shows whether it has reached the number
        rows = await self._manager.runs.started(
            self._thread_id, after=max(0, fence - 1), limit=1, user_id=self._user_id
        )
        in_flight = bool(rows) and rows[0].settled_at is None
        if place.fence == fence and not in_flight:
            return place
        newest = Place(fence, BEGIN if in_flight or not fence else END)
        self._first.append(Missing(self.seq, newest.seq))
        self._resume, self.seq = None, newest.seq
        return newest

    async def __aexit__(self, *error: object) -> None:
        if self._run is not None:
            await self._run.follower.aclose()
        if self._changes is not None:
            await self._changes.__aexit__(None, None, None)

    async def _fence_before_kept_runs(self) -> int:
        try:
            rows = await self._manager.runs.of_thread(
                self._thread_id,
                limit=_REPLAYED_RUNS,
                without=("kwargs", "result", "rollback_ref"),
                user_id=self._user_id,
            )
        except ThreadNotFound:
            if self._exists:
                raise
            return 0
        begun_ones = [row for row in rows if row.fence]
        kept_since = (time.time() - _REPLAYED_FOR) * 1e6
        kept = [row.fence for row in begun_ones if row.settled_at is None or row.settled_at > kept_since]
        return min(kept) - 1 if kept else max((row.fence for row in begun_ones), default=0)

    async def batch(self, within: float, *, until: float = math.inf) -> list[Item]:
        """Returns the next items, at least one. Returns an empty list after `within` (s), or if the place
        `until` is reached with events that are not subscribed to. The wait may be cancelled."""
        deadline = asyncio.get_running_loop().time() + within
        while True:
            left = deadline - asyncio.get_running_loop().time()
            try:
                items = await self._next(left)
            except StoreUnavailable:
                await asyncio.sleep(max(0.0, min(_POLL, left)))
                items = []
            if items or left <= 0 or self.seq >= until:
                return items

    async def _next(self, left: float) -> list[Item]:
        if self._first:
            first, self._first = self._first, []
            return first
        if self._run is None:
            row = await self._next_row()
            if row is None:
                await self._wait(left)
                return []
            self._run = self._enter(row)
        run = self._run
        if run.is_first and (begin := run.known_begin()) is not None:
            return self._kept([begin])
        return await self._follow(run, left)

    async def _next_row(self) -> RunRow | None:
        """Raises ThreadNotFound, StoreUnavailable."""
        rows = await self._manager.runs.started(
            self._thread_id, after=self._after, limit=1, user_id=self._user_id
        )
        self._exists = self._exists or bool(rows)
        if rows:
            self._polls = 0
            return rows[0]
        self._polls += 1
        if self._exists and self._polls % _CHECK == 0:
            await self._manager.threads.get(self._thread_id, with_values=False, user_id=self._user_id)
        return None

    async def _wait(self, left: float) -> None:
        period = _POLL if self._polls < _QUICK_POLLS else _SLOW_POLL
        if self._wakeup is not None:
            await self._wakeup.wait(max(0.0, min(period, left)))

    def _enter(self, row: RunRow) -> _Run:
        resume, self._resume = self._resume, None
        after = None
        if resume is not None and resume.number > 1:  # the event at the place is read again, and left out
            after = str(EventId(resume.fence, resume.number - 1))
        follower = self._manager.follow(row.run_id, after=after, user_id=self._user_id)
        # The row is kept as long as the run lasts, and its request may be large.
        run = _Run(replace(row, kwargs={}, metadata={}), follower, resumed=resume is not None)
        if resume is not None and resume.number >= FIRST_INTERRUPT:
            run.is_over = resume.fence == row.fence  # the client has its whole log
        return run

    async def _follow(self, run: _Run, left: float) -> list[Item]:
        if run.is_over:
            return await self._leave(run)
        try:
            batch = await run.follower.batch(max(0.0, left))
        except RunNotFound:  # it was removed
            run.is_over = True
            return []
        except StopAsyncIteration:
            raise ResponseAborted from None
        items: list[Item] = []
        for one in batch:
            if isinstance(one, End):
                run.is_over = True
                items += run.unproven(self.seq)
            elif isinstance(one, Gap):
                items += self._missing(run, one)
            else:
                items += self._of_event(run, one)
        return items

    def _missing(self, run: _Run, gap: Gap) -> list[Item]:
        newest = run.newest_before(gap)
        if newest is None or newest >= self.seq:
            return run.missing(gap, self.seq)
        since, self.seq = self.seq, newest
        return [Missing(since, newest)]

    def _of_event(self, run: _Run, event: Event) -> list[Item]:
        begin = run.begin_at(event.id.fence)
        items: list[Item] = [] if begin is None else self._kept([begin])
        seq, address = seq_in_log(event), address_of(event.mode)
        if seq <= self.seq:
            return items
        self.seq = seq
        if address is not None and self.selection.includes(address):
            body = run.follower.encoded(event, "protocol", body_in_log)
            if body:
                items.append(ProtocolEvent(seq, address, method_of(address.channel), body))
        return items

    def _kept(self, items: Sequence[Item]) -> list[Item]:
        """Returns those behind the last place that are subscribed to."""
        kept: list[Item] = []
        for item in items:
            if isinstance(item, Missing):
                kept.append(item)
            elif item.seq > self.seq or (item.seq == self.seq and kept):
                self.seq = item.seq
                if self.selection.includes(item.address):
                    kept.append(item)
        return kept

    async def _leave(self, run: _Run) -> list[Item]:
        """Returns the end of the run, as its row has it. The next run is the one after it."""
        rows = await self._manager.runs.started(
            self._thread_id, after=run.row.fence - 1, limit=1, user_id=self._user_id
        )
        await run.follower.aclose()
        row = rows[0] if rows and rows[0].run_id == run.row.run_id else None
        self._run, self._after = None, run.row.fence if row is None else row.fence
        if row is None:
            return []
        items = self._kept([run.begin(row.fence)]) if run.is_first else []
        return [*items, *self._kept(ended(row))]


class _Run:
    """The run that is streamed. `is_first`: its begin was not returned. `is_over`: it has settled, or was
    removed, and its end was not returned."""

    def __init__(self, row: RunRow, follower: Follower, *, resumed: bool) -> None:
        self.row, self.follower = row, follower
        self.is_first, self.is_over = True, False
        self._fence = 0
        self._resumed, self._gap = resumed, False

    def known_begin(self) -> ProtocolEvent | None:
        """Returns the begin if the run is in its first attempt. That of another one shows with its first
        event: its row has the fence of its newest attempt."""
        row = self.row
        return self.begin(row.fence) if row.open and row.attempt <= 1 else None

    def begin(self, fence: int) -> ProtocolEvent:
        self.is_first, self._fence = False, fence
        return begun(self.row, fence)

    def begin_at(self, fence: int) -> ProtocolEvent | None:
        """Returns the begin of the attempt that the first event with a fence shows."""
        return self.begin(fence) if fence > self._fence else None

    def missing(self, gap: Gap, seq: int) -> list[Item]:
        """Returns what a gap means to a client. Nothing, if it has requested no events before it, or if the
        gap is between two attempts: the second one emits again what the first may have emitted."""
        if gap.before is None:
            self._gap = gap.after is not None or self._resumed
            return []
        if EventId.parse(gap.before).number == 1 or (gap.after is None and not self._resumed):
            return []
        return [Missing(seq)]

    def newest_before(self, gap: Gap) -> int | None:
        """Returns the place of the newest event in the log, if the gap is that the log ends before the place
        from which it is read: that place was never reached, or the log has lost its newest events."""
        position = self.follower.position
        if position is None or gap.after is None or gap.before is not None:
            return None
        return seq_of_event(*position) if position < EventId.parse(gap.after) else None

    def unproven(self, seq: int) -> list[Item]:
        """Called at the end: the log was lost behind events that the client has."""
        return [Missing(seq)] if self._gap else []
