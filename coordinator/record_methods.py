"""Methods of RunManager on records: reads, and counters that the code of a run reports."""

from __future__ import annotations

import asyncio

from coordinator import arguments as check
from coordinator.record import RunRecord
from coordinator.runs.extras import Extras
from coordinator.runs.lifecycle import Lifecycle
from coordinator.runs.queries import Queries
from coordinator.runs.recovery import Recovery
from coordinator.schemas import Json
from stores.event_loop import HomeLoop
from stores.json_values import JsonObject


class RecordMethods:
    """Base class of RunManager, which sets the collaborators."""

    _home: HomeLoop
    _extras: Extras
    _lifecycle: Lifecycle
    _queries: Queries
    _recovery: Recovery

    async def update_model_name(self, run_id: str, name: str | None) -> None:
        """Persisted, best effort."""
        self._home.check()
        check.check_id("run_id", run_id)
        await self._lifecycle.update_model_name(run_id, check.check_model_name(name))

    async def update_run_completion(self, run_id: str, **fields: Json) -> None:
        """Final counters; never the record's status. A missing row is recreated once. `extra`: fields of the
        caller's own, a JSON object that is merged key by key into those of the run."""
        self._home.check()
        check.check_id("run_id", run_id)
        counters = check.check_counters(fields)
        extra: JsonObject | None = counters.pop("extra", None)
        if counters or not extra:
            await self._lifecycle.update_completion(run_id, counters)
        if extra:
            await self._extras.merge(run_id, extra)

    async def update_run_progress(self, run_id: str, **fields: Json) -> None:
        """A snapshot of counters while the run is running; otherwise ignored."""
        self._home.check()
        await self._lifecycle.update_progress(check.check_id("run_id", run_id), check.check_counters(fields))

    async def get(
        self, run_id: str, *, user_id: str | None = None, raise_on_store_error: bool = False
    ) -> RunRecord | None:
        """From memory, else from the store. If that fails: None, or StoreError if `raise_on_store_error`."""
        self._home.check()
        return await self._queries.get(
            check.check_id("run_id", run_id),
            check.check_optional_id("user_id", user_id),
            raise_on_store_error=check.check_flag("raise_on_store_error", raise_on_store_error),
        )

    async def aget(self, run_id: str, *, user_id: str | None = None) -> RunRecord | None:
        """Alias of `get`."""
        return await self.get(run_id, user_id=user_id)

    async def list_by_thread(
        self, thread_id: str, *, user_id: str | None = None, limit: int = 100
    ) -> list[RunRecord]:
        """Newest first, from memory and store; from memory only if the store fails."""
        self._home.check()
        return await self._queries.list_by_thread(
            check.check_id("thread_id", thread_id),
            check.check_optional_id("user_id", user_id),
            check.check_limit("limit", limit),
        )

    async def has_inflight(self, thread_id: str, *, operations: bool = True) -> bool:
        """Whether a run is in flight on the thread, on any worker; with `operations`, also whether an
        operation (`threads.hold` and its like) holds it."""
        self._home.check()
        return await self._queries.has_inflight(
            check.check_id("thread_id", thread_id), operations=check.check_flag("operations", operations)
        )

    async def reconcile_orphaned_inflight_runs(
        self, *, error: str, before: str | None = None
    ) -> list[RunRecord]:
        """End the runs without a live owner, with `error` as their error text, and return those that this
        call ended. `before` (ISO 8601): only runs created before."""
        self._home.check()
        return await self._recovery.reconcile(
            check.check_needed_text("error", error), check.check_instant("before", before)
        )

    async def cleanup(self, run_id: str, *, delay: float = 300) -> None:
        """Drop the in-memory record after `delay` (s). Without a durable store the run is unknown then."""
        self._home.check()
        check.check_id("run_id", run_id)
        await asyncio.sleep(check.check_seconds("delay", delay))
        await self._lifecycle.forget(run_id)
