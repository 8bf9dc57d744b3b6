"""A run registry as one writes it first: a dictionary, one lock, memory before the store.

It serves one process and one user well. `tests/fundamentals/test_known_faults.py` shows where it fails.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from coordinator.errors import ConflictError
from coordinator.record import RunRecord, record_from_row
from coordinator.schemas import DisconnectMode, RunStatus

IN_FLIGHT = (RunStatus.pending, RunStatus.running)


class NaiveRegistry:
    def __init__(self, store: Any) -> None:
        self._store = store
        self._runs: dict[str, RunRecord] = {}
        self._lock = asyncio.Lock()
        self.scanned = 0

    async def create_or_reject(
        self, thread_id: str, *, multitask_strategy: str = "reject", user_id: str | None = None
    ) -> RunRecord:
        async with self._lock:
            in_flight = [record for record in self._scan() if record.thread_id == thread_id]
            if in_flight and multitask_strategy == "reject":
                raise ConflictError(thread_id, in_flight[0].run_id)
            now = datetime.now(UTC).isoformat()
            record = RunRecord(
                uuid4().hex,
                thread_id,
                None,
                RunStatus.pending,
                DisconnectMode.cancel,
                multitask_strategy=multitask_strategy,
                user_id=user_id,
                created_at=now,
                updated_at=now,
            )
            self._runs[record.run_id] = record
            await self._store.put(
                record.run_id, thread_id=thread_id, status="pending", created_at=now, user_id=user_id
            )
            for old in in_flight:
                await self._stop(old)
            return record

    def _scan(self) -> list[RunRecord]:
        self.scanned += len(self._runs)
        return [record for record in self._runs.values() if record.status in IN_FLIGHT]

    async def _stop(self, record: RunRecord) -> None:
        record.abort_event.set()
        if record.task is not None:
            record.task.cancel()
        await self._write(record, RunStatus.interrupted)

    async def _write(self, record: RunRecord, status: RunStatus) -> None:
        record.status = status
        await self._store.update_status(record.run_id, status.value)

    async def set_status(self, run_id: str, status: RunStatus) -> None:
        if (record := self._runs.get(run_id)) is not None:
            await self._write(record, status)

    async def cancel(self, run_id: str) -> bool:
        async with self._lock:
            record = self._runs.get(run_id)
            if record is None or record.status not in IN_FLIGHT:
                return record is not None and record.status is RunStatus.interrupted
            await self._stop(record)
            return True

    async def get(self, run_id: str, *, user_id: str | None = None) -> RunRecord | None:
        async with self._lock:
            if (record := self._runs.get(run_id)) is not None:
                return record
        row = await self._store.get(run_id, user_id=user_id)
        return None if row is None else record_from_row(row)

    async def list_by_thread(self, thread_id: str, *, limit: int = 100) -> list[RunRecord]:
        mine = [record for record in self._runs.values() if record.thread_id == thread_id]
        known = {record.run_id for record in mine}
        if len(mine) < limit:
            rows = await self._store.list_by_thread(thread_id, limit=limit - len(mine))
            mine += [record_from_row(row) for row in rows if row["run_id"] not in known]
        return sorted(mine, key=lambda record: record.created_at, reverse=True)[:limit]

    async def has_inflight(self, thread_id: str) -> bool:
        return any(record.thread_id == thread_id for record in self._scan())

    async def reconcile_orphaned_inflight_runs(self, *, error: str) -> list[RunRecord]:
        ended: list[RunRecord] = []
        for row in await self._store.list_inflight():
            if row["run_id"] not in self._runs:
                await self._store.update_status(row["run_id"], "error", error=error)
                ended.append(record_from_row(row))
        return ended

    async def shutdown(self, *, timeout: float) -> None:
        """Nothing runs in the background."""

    async def aclose(self) -> None:
        """Nothing to close."""
