"""The fields that a gateway keeps with its runs: `RunRecord.extra`, and a column of the row."""

from __future__ import annotations

import logging

from coordinator.arguments import MAX_EXTRA, check_extra
from coordinator.runs.lifecycle import Lifecycle
from coordinator.runs.registry import Registry
from stores.catalogue import CatalogueStore
from stores.json_values import JsonObject

logger = logging.getLogger(__name__)


class Extras:
    def __init__(self, store: CatalogueStore, registry: Registry, lifecycle: Lifecycle) -> None:
        self._store, self._registry, self._lifecycle = store, registry, lifecycle

    async def merge(self, run_id: str, extra: JsonObject) -> None:
        """Merges `extra` key by key, as the code of the run reports it: best effort towards the caller, and
        ignored for a run that this worker has lost. Raises InvalidArgument if the fields would exceed
        MAX_EXTRA."""
        if self._lifecycle.is_closed(run_id):
            logger.warning("The extra fields of run %r are ignored: the run is closed", run_id)
            return
        if (record := self._registry.records.get(run_id)) is not None:
            record.extra = check_extra({**record.extra, **extra})

        async def write() -> None:
            if await self._write(run_id, extra, None) is None:
                logger.warning("The extra fields of run %r are not written: they are too large", run_id)

        await self._lifecycle.best_effort("extra fields", run_id, write)

    async def update(self, run_id: str, extra: JsonObject, user_id: str | None) -> JsonObject | None:
        """Merges `extra` from any worker and returns the fields; None if they would exceed MAX_EXTRA. Raises
        RunNotFound, StoreError."""
        merged = await self._write(run_id, extra, user_id)
        if merged is not None and (record := self._registry.records.get(run_id)) is not None:
            record.extra = dict(merged)
        return merged

    async def _write(self, run_id: str, extra: JsonObject, user_id: str | None) -> JsonObject | None:
        return await self._store.update_extra(run_id, extra, user_id=user_id, max_bytes=MAX_EXTRA)
