"""Reads of one run's log, shared by its followers on this worker."""

from __future__ import annotations

import asyncio

from coordinator.event_log import EventId, EventLog, Page
from coordinator.runs.jobs import Jobs


class Pages:
    """Followers at the same position share one read. A slow follower reads at its own pace; no page is
    buffered for it."""

    def __init__(self, log: EventLog, jobs: Jobs, thread_id: str, run_id: str, limit: int) -> None:
        self._log, self._jobs, self._limit = log, jobs, limit
        self._thread_id, self._run_id = thread_id, run_id
        self._reading: dict[EventId | None, tuple[int, asyncio.Task[Page | None]]] = {}
        self._begun = 0
        self._newest: tuple[EventId | None, Page] | None = None

    async def after(self, position: EventId | None) -> Page | None:
        """Returns the entries after a position; None if the log cannot be read. The read of an empty page
        began after this call."""
        if self._newest is not None and self._newest[0] == position:
            return self._newest[1]  # entries are immutable, so the page may be returned again
        begun_before = self._begun
        while True:
            number, reading = self._reading.get(position) or self._begin(position)
            page = await asyncio.shield(reading)
            if page is None or page.events or number > begun_before:
                return page

    def is_last(self, page: Page) -> bool:
        """Returns whether the page reached the end of the log when it was read."""
        return len(page.events) < self._limit

    def _begin(self, position: EventId | None) -> tuple[int, asyncio.Task[Page | None]]:
        self._begun += 1
        task = self._jobs.spawn(self._read(position), f"reading the log of run {self._run_id!r}")
        self._reading[position] = self._begun, task
        return self._begun, task

    async def _read(self, position: EventId | None) -> Page | None:
        try:
            page = await self._log.read(self._thread_id, self._run_id, position, self._limit)
        finally:
            del self._reading[position]
        if page is not None and page.events:
            self._newest = position, page
        elif page is not None and self._newest is not None:
            self._forget_lost(page.top, self._newest[1])
        return page

    def _forget_lost(self, top: EventId | None, newest: Page) -> None:
        """Drops the newest page if the log ends before it: the store has failed over, or has never committed
        events that the owner's memory had."""
        if top is None or top < newest.events[-1].id:
            self._newest = None
