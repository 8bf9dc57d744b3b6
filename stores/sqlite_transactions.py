"""The operations of a store on SQLite, in a file or in memory."""

from __future__ import annotations

from typing import cast

from stores.base import EPOCH_ENDED
from stores.catalogue import NewThread, ThreadPatch
from stores.json_values import JsonObject
from stores.rows import Orphan, ThreadRow
from stores.sql.sqlite import records, threads, workers
from stores.sql.sqlite.statements import SQLITE
from stores.sql.statement import OnConnection, P, Statement, T
from stores.times import limit as limit_of
from stores.transactions import SQLTransactions


class SQLiteTransactions(SQLTransactions):
    """Adds the operations that are one transaction on SQLite and several calls on PostgreSQL."""

    _sql = SQLITE

    async def create_thread(self, new: NewThread) -> ThreadRow:
        return await self._write(threads.create_thread, new)

    async def patch_thread(self, thread_id: str, patch: ThreadPatch, *, user_id: str | None) -> ThreadRow:
        return await self._write(threads.patch_thread, thread_id, patch, user_id)

    async def update_extra(
        self, run_id: str, extra: JsonObject, *, user_id: str | None, max_bytes: int
    ) -> JsonObject | None:
        return await self._write(records.update_extra, run_id, extra, user_id=user_id, max_bytes=max_bytes)

    async def retire(self, epoch: int, *, error: str = EPOCH_ENDED) -> list[Orphan]:
        return await self._write(workers.retire, epoch, self._registered.get(epoch), error)

    async def sweep(self, *, by: int, error: str, before: str | None = None) -> list[Orphan]:
        return await self._write(workers.sweep, by, error, before=limit_of(before))


def on_connection(statement: Statement[P, T]) -> OnConnection[P, T]:
    """Returns a statement as a function on a connection, which every statement of SQLITE is."""
    return cast("OnConnection[P, T]", statement)
