"""Reads of one run's log, shared by its followers on this worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from coordinator.event_log import Event, EventId, EventLog, Page
from coordinator.runs.jobs import Jobs

_MAX_ENCODED = 1 << 20
"""Bytes of encoded events that are kept for the followers of a run."""


class Pages:
    """Followers at the same position share one read. A slow follower reads at its own pace; no page is
    buffered for it."""

    def __init__(self, log: EventLog, jobs: Jobs, thread_id: str, run_id: str, limit: int) -> None:
        self._log, self._jobs, self._limit = log, jobs, limit
        self._thread_id, self._run_id = thread_id, run_id
        self._reading: dict[EventId | None, tuple[int, asyncio.Task[Page | None]]] = {}
        self._begun = 0
        self._newest: tuple[EventId | None, Page] | None = None
        self._encoded: dict[tuple[EventId, str], bytes] = {}  # of the newest page
        self._encoded_room = _MAX_ENCODED

    def peek(self, position: EventId | None) -> Page | None:
        """Returns the entries after a position if no I/O is needed, else None."""
        if self._newest is not None and self._newest[0] == position:
            return self._newest[1]
        if (page := self._log.peek(self._run_id, position, self._limit)) is not None:
            self._keep(position, page)
        return page

    async def after(self, position: EventId | None) -> Page | None:
        """Returns the entries after a position; None if the log cannot be read. The read of an empty page
        began after this call."""
        if (page := self.peek(position)) is not None:
            return page  # entries are immutable, so a page may be returned again
        begun_before = self._begun
        while True:
            number, reading = self._reading.get(position) or self._begin(position)
            page = await asyncio.shield(reading)
            if page is None or page.events or number > begun_before:
                return page

    def forget(self) -> None:
        """Drops what this worker has in memory, because another one may continue the run. Idempotent."""
        self._newest = None
        self._forget_encoded()
        self._log.forget(self._run_id)

    def encoded(self, event: Event, form: str, encode: Callable[[Event], bytes]) -> bytes:
        """Returns `encode(event)`, which is called once for each event of the newest page and `form`, up to
        `_MAX_ENCODED`."""
        key = event.id, form
        if (known := self._encoded.get(key)) is None:
            known = encode(event)
            newest = self._newest
            if newest is not None and event.id >= newest[1].events[0].id and len(known) <= self._encoded_room:
                self._encoded[key] = known
                self._encoded_room -= len(known)
        return known

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
        if page is not None:
            self._keep(position, page)
        return page

    def _keep(self, position: EventId | None, page: Page) -> None:
        if page.events:
            self._newest = position, page
            self._forget_encoded()
        elif self._newest is not None:
            self._forget_lost(page.top, self._newest[1])

    def _forget_lost(self, top: EventId | None, newest: Page) -> None:
        """Drops the newest page if the log ends before it: the store has failed over, or has never committed
        events that the owner's memory had."""
        if top is None or top < newest.events[-1].id:
            self._newest = None
            self._forget_encoded()

    def _forget_encoded(self) -> None:
        self._encoded.clear()
        self._encoded_room = _MAX_ENCODED
