"""Records and results of runs: from the memory of this worker first, then from the store."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from coordinator.assistants.references import dereferenced, referenced
from coordinator.assistants.registry import Assistants
from coordinator.errors import RunNotFound
from coordinator.notifier import Connectivity, Notifier
from coordinator.record import RunRecord, record_from_row
from coordinator.runs.registry import Registry
from coordinator.runs.states import Settled
from coordinator.schemas import Ended
from stores.base import AdmissionStore, ReadStore, RecordStore
from stores.catalogue import CatalogueStore
from stores.json_values import JsonMapping, JsonObject
from stores.rows import RunRow
from stores.states import OPEN
from stores.times import instant

logger = logging.getLogger(__name__)

FIRST_READ = 1.0  # least time (s) for the first read of the row


class QueryStore(ReadStore, RecordStore, AdmissionStore, CatalogueStore, Protocol):
    """Store operations of queries."""


class Waiter:
    """Waits until a run has settled, on any worker: hints wake the waiter, the row decides."""

    def __init__(
        self, store: ReadStore, registry: Registry, notifier: Notifier, *, poll: float, quick: float
    ) -> None:
        self._store, self._registry, self._notifier = store, registry, notifier
        self._poll, self._quick = poll, quick

    async def until_settled(self, run_id: str, timeout: float | None) -> bool:
        """Returns False after `timeout` (s), or if the run is unknown. A run that has settled before is
        always recognised: the first read of the row gets at least FIRST_READ."""
        entry = self._registry.entry(run_id)
        try:
            if entry is None or (entry.elsewhere and entry.settled.is_set()):
                return await self._remote(run_id, timeout)
            async with asyncio.timeout(timeout):
                await entry.settled.wait()
                return not entry.elsewhere or await self._remote(run_id, None)
        except TimeoutError:
            return False

    async def _remote(self, run_id: str, timeout: float | None) -> bool:
        began = asyncio.get_running_loop().time()
        async with asyncio.timeout(None if timeout is None else max(timeout, FIRST_READ)):
            row = await self._store.row(run_id)
        if row is None or is_settled(row):
            return row is not None
        async with (
            asyncio.timeout_at(None if timeout is None else began + timeout),
            self._notifier.watch(row.thread_id) as wakeup,
        ):
            pause = self._quick
            while True:
                row = await self._store.row(run_id)
                if row is None or is_settled(row):
                    return row is not None
                if self._notifier.connectivity is Connectivity.connected:
                    await wakeup.wait(self._poll)
                else:  # without hints: poll often at first, then at the interval of the tick
                    await wakeup.wait(pause)
                    pause = min(self._poll, pause * 1.5)


def is_settled(row: RunRow) -> bool:
    """Whether the run has settled, including a run that never held its thread."""
    return row.settled or (not row.open and not row.holds_thread and row.owner_epoch is None)


class Queries:
    def __init__(self, store: QueryStore, registry: Registry, waiter: Waiter, assistants: Assistants) -> None:
        self._store, self._registry, self._waiter = store, registry, waiter
        self._assistants = assistants

    async def get(self, run_id: str, user_id: str | None, *, raise_on_store_error: bool) -> RunRecord | None:
        self._registry.evict()
        if (known := self._registry.records.get(run_id)) is not None:
            return known if user_id is None or known.user_id == user_id else None
        try:
            row = await self._store.get(run_id, user_id=user_id)
        except Exception:
            if raise_on_store_error:
                raise
            logger.warning("Run %r could not be read from the store", run_id, exc_info=True)
            return None
        # An admission may have added the run while the store was read.
        if (known := self._registry.records.get(run_id)) is not None:
            return known if user_id is None or known.user_id == user_id else None
        return None if row is None else readable(row)

    async def list_by_thread(self, thread_id: str, user_id: str | None, limit: int) -> list[RunRecord]:
        await self._registry.admitted(thread_id)
        self._registry.evict()
        rows: list[JsonObject] = []
        # Records in memory replace the rows of the same runs, so those rows must not use up the limit.
        row_limit = limit + len(self._local_runs(thread_id)) if limit else 0
        try:
            rows = await self._store.list_by_thread(thread_id, user_id=user_id, limit=row_limit)
        except Exception:
            logger.warning("Runs of thread %r could not be read from the store", thread_id, exc_info=True)
        local = self._local_runs(thread_id)
        records = {record.run_id: record for record in local if user_id is None or record.user_id == user_id}
        for row in rows:
            if row.get("run_id") not in records and (record := readable(row)) is not None:
                records[record.run_id] = record
        newest = sorted(records.values(), key=lambda record: instant(record.created_at) or 0, reverse=True)
        return newest[:limit]

    def _local_runs(self, thread_id: str) -> list[RunRecord]:
        """Returns the runs of this worker on the thread, without operations."""
        entries = map(self._registry.entry, (each.run_id for each in self._registry.of_thread(thread_id)))
        return [entry.record for entry in entries if entry is not None and not entry.operation]

    async def has_inflight(self, thread_id: str, *, operations: bool) -> bool:
        await self._registry.settling.over(thread_id)
        for record in self._registry.of_thread(thread_id):
            entry = self._registry.entry(record.run_id)
            if entry is not None and entry.operation and not operations:
                continue
            if record.status in OPEN or (entry is not None and not entry.settled.is_set()):
                return True
        holder = await self._store.holder(thread_id)
        if holder is None or operations:
            return holder is not None
        row = await self._store.row(holder)
        if row is None or row.kind == "run":
            return True
        waiting = await self._store.inflight_runs(
            statuses=(), thread_id=thread_id, user_id=None, after="", limit=1
        )
        return bool(waiting)

    async def ended(self, run_id: str, user_id: str | None, timeout: float | None) -> Ended:
        """Waits until the run has settled, and returns its end. Raises RunNotFound, TimeoutError."""
        record = await self.get(run_id, user_id, raise_on_store_error=True)
        if record is None:
            raise RunNotFound(run_id)
        entry = self._registry.entry(run_id)  # it may be evicted during the wait
        if record.store_only and record.status not in OPEN and await self._store.row(run_id) is None:
            return Ended(record.status, record.error)  # a record store keeps no results
        loop, left = asyncio.get_running_loop(), timeout
        until = None if timeout is None else loop.time() + timeout
        while not await self._waiter.until_settled(run_id, left):
            if until is None or (
                (entry is None or entry.elsewhere) and await self._store.row(run_id) is None
            ):
                raise RunNotFound(run_id)  # it was deleted meanwhile
            if (left := until - loop.time()) <= 0:  # else its owner has recreated the row
                raise TimeoutError(f"Run {run_id!r} has not settled within {timeout:g} s")
        state = None if entry is None else entry.state
        if entry is not None and isinstance(state, Settled) and not state.result.dropped:
            ended = Ended(entry.record.status, entry.record.error, state.result.load())
        elif (row := await self._store.row(run_id)) is not None:
            ended = Ended(row.status, row.error, row.result, row.paused, row.interrupts)
        else:
            raise RunNotFound(run_id)
        if not referenced(ended.result):
            return ended
        result = await dereferenced(
            self._assistants, record.assistant_id, record.thread_id, ended.result, user_id=user_id
        )
        return ended._replace(result=result)

    async def row_or_record(self, run_id: str, user_id: str | None) -> RunRow | RunRecord:
        """Returns the row; the record if the store keeps only records. Raises RunNotFound, StoreError."""
        row = await self._store.row(run_id, user_id=user_id)
        if row is None:
            record = await self.get(run_id, user_id, raise_on_store_error=True)
            if record is None:
                raise RunNotFound(run_id)
            return record
        return row


def readable(row: JsonMapping) -> RunRecord | None:
    try:
        return record_from_row(row)
    except (KeyError, TypeError, ValueError):
        logger.warning("The row of run %r cannot be read", row.get("run_id"), exc_info=True)
        return None
