"""Ends orphaned runs when an operator requests it."""

from __future__ import annotations

import logging
from typing import Protocol

from coordinator.record import RunRecord
from coordinator.runs.incarnation import Incarnation
from coordinator.runs.queries import readable
from stores.base import RecordStore
from stores.plain import PlainStore
from stores.rows import Orphan

logger = logging.getLogger(__name__)


class Reaping(Protocol):
    async def reap(self, *, error: str, before: str | None) -> list[Orphan]: ...


class Recovery:
    def __init__(self, store: RecordStore, reaper: Reaping, worker: Incarnation) -> None:
        self._store, self._reaper, self._worker = store, reaper, worker

    async def reconcile(self, error: str, before: str | None) -> list[RunRecord]:
        """Ends the orphaned runs and returns the records of those that this call ended."""
        if isinstance(self._store, PlainStore):
            return await self._reconcile_plain(self._store, error, before)
        await self._worker.ready()
        ended = await self._reaper.reap(error=error, before=before)
        rows = [await self._store.get(orphan.run_id) for orphan in ended if orphan.adopted is None]
        records = [readable(row) for row in rows if row is not None and row.get("kind") != "op"]
        return [record for record in records if record is not None]

    async def _reconcile_plain(self, store: PlainStore, error: str, before: str | None) -> list[RunRecord]:
        try:
            rows = await store.end_abandoned(
                error=error, before=before, readable=lambda row: readable(row) is not None
            )
        except Exception:
            logger.warning("Runs in flight could not be listed", exc_info=True)
            return []
        records = [readable(row) for row in rows]
        return [record for record in records if record is not None]
