"""Appends the entries of one run and fence in order, and keeps a backlog of unacknowledged ones.

An append without an answer may or may not have been executed. Entries have ids, so a repeated append is
harmless: an entry stays in the backlog until the log has acknowledged it, and later entries wait behind it.
The backlog is bounded: a new entry evicts the oldest one, whose number is then missing in the log."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from coordinator.errors import StaleFence
from coordinator.event_log import END, Appended, Entry, EventLog
from coordinator.runs.jobs import Jobs
from stores.rows import Ownership

MAX_ENTRIES = 256
MAX_BYTES = 8 << 20
"""Bytes of one run's backlog. The largest event fits."""

MAX_TOTAL = 64 << 20
"""Bytes of all backlogs of a process."""

_BATCH = 64
_BATCH_BYTES = 64 * 1024
_ATTEMPTS = 8
"""Attempts to append an entry to a log that is up but does not answer, for example at low bandwidth."""

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 0.5
_OVERHEAD = 400  # bytes of an entry beside its JSON


class Room:
    """The remaining capacity (bytes) for the backlogs of a process."""

    __slots__ = ("left",)

    def __init__(self, left: int = MAX_TOTAL) -> None:
        self.left = left


class _BacklogEntry:
    __slots__ = ("attempts", "entry", "over", "size")

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.size = len(entry.json) + _OVERHEAD
        self.attempts = 0
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Sender:
    """`on_stale(entry)` is called if the log reports a stale fence. It reads the store, and returns the
    outcome of the entry or raises StaleFence. `on_over(entry, appended)` is called once for each entry, when
    it is appended or dropped."""

    def __init__(
        self,
        log: EventLog,
        own: Ownership,
        *,
        jobs: Jobs,
        room: Room,
        on_stale: Callable[[Entry], Awaitable[Appended]],
        on_over: Callable[[Entry, Appended], None],
    ) -> None:
        self._log, self._own, self._jobs, self._room = log, own, jobs, room
        self._on_stale, self._on_over = on_stale, on_over
        self._backlog: dict[int, _BacklogEntry] = {}  # by number, ascending
        self._bytes = 0
        self._batch = _BATCH
        self._sending = False
        self._flushing: asyncio.Task[None] | None = None
        self._stale = False

    async def send(self, entry: Entry, within: float) -> None:
        """Returns when the entry is appended or dropped, or after `within` (s); at once if the log is away.
        Raises StaleFence."""
        if self._stale:
            raise StaleFence(self._own.thread_id, self._own.fence)
        if self._sending or self._backlog:
            kept = self._keep(_BacklogEntry(entry))
        else:
            kept = await self._send_alone(entry)
        if kept is not None and not kept.over.done() and not self._log.away:
            await asyncio.wait([kept.over], timeout=within)

    def close(self, entry: Entry) -> None:
        """Sends the last entry, behind the backlog. Does not wait."""
        if self._stale:
            return
        if self._sending or self._backlog or self._log.away:
            self._keep(_BacklogEntry(entry))
            self._flush_soon()
        else:
            self._log.close(self._own.thread_id, self._own.run_id, entry)
            self._on_over(entry, Appended.done)

    async def sent(self) -> None:
        """Returns when the entries of the backlog are appended or dropped."""
        if waiting := [kept.over for kept in self._backlog.values()]:
            await asyncio.wait(waiting)

    def discard(self) -> None:
        """Drops the backlog; nothing is sent afterwards. Idempotent."""
        self._stale = True
        for kept in list(self._backlog.values()):
            self._finish(kept, Appended.lost)
        if self._flushing is not None:
            self._flushing.cancel()

    # ---- one entry -------------------------------------------------------------------------------------

    async def _send_alone(self, entry: Entry) -> _BacklogEntry | None:
        """The fast path of nearly every entry: no task, no copy. Returns the entry if it is kept in the
        backlog."""
        kept: _BacklogEntry | None = None
        appended = Appended.lost
        self._sending = True
        try:
            appended = await self._log.append(self._own.thread_id, self._own.run_id, entry)
            if appended is Appended.stale:
                appended = await self._on_stale(entry)
        except StaleFence:
            self.discard()
            appended = Appended.stale
            raise
        finally:  # also if the caller is cancelled
            self._sending = False
            if appended is Appended.lost:
                kept = self._keep(_BacklogEntry(entry), first=True)
            else:
                self._on_over(entry, appended)
            self._flush_soon()
        return kept

    # ---- the backlog -----------------------------------------------------------------------------------

    def _keep(self, kept: _BacklogEntry, *, first: bool = False) -> _BacklogEntry | None:
        """Adds an entry to the backlog, and evicts the oldest ones if it is full. Returns None if the entry
        does not fit and is dropped."""
        while self._backlog and self._is_full(kept) and not first:
            self._finish(next(iter(self._backlog.values())), Appended.lost)
        if self._stale or self._room.left < kept.size or (first and self._is_full(kept)):
            self._on_over(kept.entry, Appended.lost)
            return None
        self._room.left -= kept.size
        self._bytes += kept.size
        if first:
            self._backlog = {kept.entry.id.number: kept, **self._backlog}
        else:
            self._backlog[kept.entry.id.number] = kept
        return kept

    def _is_full(self, kept: _BacklogEntry) -> bool:
        if kept.entry.mode == END or not self._backlog:
            return False
        return len(self._backlog) >= MAX_ENTRIES or self._bytes + kept.size > MAX_BYTES

    def _finish(self, kept: _BacklogEntry, appended: Appended) -> None:
        if self._backlog.pop(kept.entry.id.number, None) is None:
            return
        self._room.left += kept.size
        self._bytes -= kept.size
        self._on_over(kept.entry, appended)
        if not kept.over.done():
            kept.over.set_result(None)

    def _flush_soon(self) -> None:
        if self._backlog and self._flushing is None:
            name = f"appending the event backlog of run {self._own.run_id!r}"
            self._flushing = self._jobs.spawn(self._flush(), name)

    async def _flush(self) -> None:
        pause = _FIRST_PAUSE
        try:
            while self._backlog:
                await self._log.returned()
                if await self._flush_batch():
                    pause = _FIRST_PAUSE
                else:
                    await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                    pause = min(pause * 2, _LONGEST_PAUSE)
        except StaleFence:
            self._flushing = None
            self.discard()
        finally:
            self._flushing = None

    async def _flush_batch(self) -> bool:
        """Sends the oldest entries as one write. Returns whether the backlog has become smaller."""
        batch = self._oldest()
        answers = await asyncio.gather(
            *(self._log.append(self._own.thread_id, self._own.run_id, kept.entry) for kept in batch)
        )
        progress = False
        for kept, answer in zip(batch, answers, strict=True):
            stale = answer is Appended.stale
            appended = await self._on_stale(kept.entry) if stale else answer
            if appended is Appended.lost:
                progress = self._failed(kept) or progress
                break
            self._finish(kept, appended)
            progress = True
            if stale:  # the store is read once for a batch; the entries behind this one are sent again
                break
        else:
            self._batch = min(self._batch * 2, _BATCH)
        return progress

    def _failed(self, kept: _BacklogEntry) -> bool:
        """Counts a failed attempt, and halves the batch, because a smaller one may fit the budget of a slow
        connection. Returns whether the entry is dropped."""
        self._batch = max(1, self._batch // 2)
        kept.attempts += 1
        if kept.attempts < _ATTEMPTS:
            return False
        self._finish(kept, Appended.lost)
        return True

    def _oldest(self) -> list[_BacklogEntry]:
        batch: list[_BacklogEntry] = []
        size = 0
        for kept in self._backlog.values():
            size += kept.size
            if batch and (len(batch) >= self._batch or size > _BATCH_BYTES):
                break
            batch.append(kept)
        return batch
