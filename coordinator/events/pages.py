"""Reads of one run's log, shared by all who follow it on this worker."""

from __future__ import annotations

import asyncio

from coordinator.event_log import EventId, EventLog, Page
from coordinator.runs.jobs import Jobs


class Pages:
    """Followers who stand at the same place read once. Who falls behind reads at its own pace: nothing is
    kept for it but the log."""

    def __init__(self, log: EventLog, jobs: Jobs, thread_id: str, run_id: str, limit: int) -> None:
        self._log, self._jobs, self._limit = log, jobs, limit
        self._thread_id, self._run_id = thread_id, run_id
        self._reading: dict[EventId | None, tuple[int, asyncio.Task[Page | None]]] = {}
        self._begun = 0
        self._newest: tuple[EventId | None, Page] | None = None

    async def after(self, position: EventId | None) -> Page | None:
        """The entries after a position. An empty page is no older than the question: it was read after it."""
        if self._newest is not None and self._newest[0] == position:
            return self._newest[1]  # entries do not change, so what was read once may be given again
        asked = self._begun
        while True:
            number, reading = self._reading.get(position) or self._begin(position)
            page = await asyncio.shield(reading)
            if page is None or page.events or number > asked:
                return page

    def is_last(self, page: Page) -> bool:
        """Did the log end with this page when it was read?"""
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
        """The log may end before what was read last, by now: its store has failed over, or has never taken
        what its owner showed."""
        if top is None or top < newest.events[-1].id:
            self._newest = None
