"""What clients make, find and remove: threads, and the runs of a thread. Everybody reads the store here, so
that every worker gives the same answer."""

from __future__ import annotations

from coordinator.errors import RunNotFound
from coordinator.event_log import EventLog
from coordinator.runs.registry import Registry
from stores.catalogue import CatalogueStore, Heavy, NewThread, ThreadPatch, ThreadQuery
from stores.pages import Page
from stores.rows import RunRow, ThreadRow


class Catalogue:
    def __init__(self, store: CatalogueStore, registry: Registry, event_log: EventLog) -> None:
        self._store, self._registry, self._event_log = store, registry, event_log

    async def create(self, new: NewThread) -> ThreadRow:
        return await self._store.create_thread(new)

    async def patch(self, thread_id: str, patch: ThreadPatch, user_id: str | None) -> ThreadRow:
        return await self._store.patch_thread(thread_id, patch, user_id=user_id)

    async def threads(self, query: ThreadQuery, user_id: str | None) -> Page[ThreadRow]:
        return await self._store.threads(query, user_id=user_id)

    async def count(self, query: ThreadQuery, user_id: str | None) -> int:
        return await self._store.count_threads(query, user_id=user_id)

    async def run(self, run_id: str, thread_id: str | None, user_id: str | None) -> RunRow:
        found = await self._store.run(run_id, thread_id=thread_id, user_id=user_id)
        if found is None:
            raise RunNotFound(run_id)
        return found

    async def thread_of_key(self, key: str, user_id: str | None) -> str | None:
        return await self._store.thread_of_key(key, user_id=user_id)

    async def thread_runs(
        self,
        thread_id: str,
        statuses: tuple[str, ...],
        limit: int,
        offset: int,
        user_id: str | None,
        *,
        without: frozenset[Heavy],
        max_bytes: int | None,
    ) -> Page[RunRow]:
        return await self._store.thread_runs(
            thread_id,
            statuses=statuses,
            limit=limit,
            offset=offset,
            user_id=user_id,
            without=without,
            max_bytes=max_bytes,
        )

    async def inflight(
        self, statuses: tuple[str, ...], thread_id: str | None, user_id: str | None, after: str, limit: int
    ) -> list[RunRow]:
        return await self._store.inflight_runs(
            statuses=statuses, thread_id=thread_id, user_id=user_id, after=after, limit=limit
        )

    async def delete_run(self, run_id: str, thread_id: str | None, user_id: str | None) -> None:
        deleted = await self._store.delete_run(run_id, thread_id=thread_id, user_id=user_id)
        self._registry.removed(run_id)
        self._event_log.remove(deleted.thread_id, run_id)
