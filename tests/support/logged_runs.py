"""An event log in a store, for tests that append to runs without admitting them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from coordinator.event_log import Appended, Entry, EventId, Page
from coordinator.event_logs.store import StoreEventLog
from coordinator.notifiers.local import LocalNotifier
from tests.support.builders import new_worker, sql_of
from tests.support.inside import backlog_of
from tests.support.waiting import wait_until


class LoggedRuns:
    """Gives each run a row with the fence that appends to it, as its worker would have it: the newest one,
    until the store goes back. Implements `EventLog`."""

    def __init__(self, store: Any, epoch: int, *, elsewhere: bool) -> None:
        self._store, self._epoch = store, epoch
        self.written = StoreEventLog(store, LocalNotifier(), ttl=60)
        self._read = StoreEventLog(store, LocalNotifier(), ttl=60) if elsewhere else self.written
        self._fences: dict[str, int] = {}

    @property
    def away(self) -> bool:
        return self.written.away

    async def returned(self) -> None:
        await self.written.returned()

    async def append(self, thread_id: str, run_id: str, entry: Entry) -> Appended:
        run_id = _storable(run_id)
        if run_id not in self._fences:
            await self._store.put(run_id, thread_id=thread_id, status="running")
        if entry.id.fence > self._fences.get(run_id, -1):
            await self._all_written()
            self._set_fence(run_id, entry.id.fence)
        return await self.written.append(thread_id, run_id, entry)

    async def _all_written(self) -> None:
        await wait_until(lambda: not backlog_of(self.written), description="all is written")

    def _set_fence(self, run_id: str, fence: int) -> None:
        sql_of(self._store)(
            f"UPDATE runs SET fence = {fence}, owner_epoch = {self._epoch} WHERE run_id = '{run_id}'"
        )
        self._fences[run_id] = fence

    def reclaim(self, thread_id: str, run_id: str, fence: int) -> None:
        if run_id in self._fences:
            self._set_fence(run_id, fence)
        self.written.reclaim(thread_id, run_id, fence)

    def close(self, thread_id: str, run_id: str, entry: Entry) -> None:
        self.written.close(thread_id, run_id, entry)

    async def flushed(self, thread_id: str, run_id: str) -> None:
        await self.written.flushed(thread_id, run_id)

    async def read(self, thread_id: str, run_id: str, after: EventId | None, limit: int) -> Page | None:
        await self._all_written()
        return await self._read.read(thread_id, _storable(run_id), after, limit)

    def peek(self, run_id: str, after: EventId | None, limit: int) -> Page | None:
        return self._read.peek(_storable(run_id), after, limit)

    def followed(self, thread_id: str, run_id: str) -> AbstractAsyncContextManager[None]:
        return self._read.followed(thread_id, run_id)

    async def aclose(self) -> None:
        await self.written.aclose()
        await self._read.aclose()

    def forget(self, run_id: str) -> None:
        self.written.forget(run_id)

    def remove(self, thread_id: str, run_id: str) -> None:
        sql_of(self._store)(f"DELETE FROM runs WHERE run_id = '{run_id}'")
        self._fences.pop(run_id, None)
        self.written.remove(thread_id, run_id)


def _storable(run_id: str) -> str:
    """No store takes a run with half a character in its name."""
    return run_id.encode("utf-8", "backslashreplace").decode()


@asynccontextmanager
async def logged_runs(store: Any, *, elsewhere: bool) -> AsyncGenerator[LoggedRuns]:
    log = LoggedRuns(store, await store.register(new_worker()), elsewhere=elsewhere)
    yield log
    await log.aclose()
