"""Stores in the memory of the process.

`MemoryStore` implements all transactions with the functions of SQLite, on a database in memory, executed
inline in the event loop. `MemoryRunStore` is the plain record store that gateways use; it has a
`coordination`, so that several managers that share the store coordinate with each other.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import weakref
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import cache, cached_property
from typing import Concatenate

from stores.base import Row, RunStore
from stores.group_commit import as_store_error, wall_clock
from stores.json_values import Json, JsonObject
from stores.rows import COUNTERS, MESSAGES
from stores.spec import AdmissionRequest
from stores.sql.codec import dumps, dumps_opaque, loads, model_name_of
from stores.sql.sqlite import contains, records, schema
from stores.sql.sqlite.searches import Search
from stores.sql.statement import OnConnection, P, Query, SearchStatement, Statement, T, Transaction
from stores.sqlite_transactions import SQLiteTransactions, on_connection
from stores.states import OPEN, TERMINAL, RunStatus
from stores.times import instant, iso, stamp
from stores.times import limit as limit_of


@cache
def _empty_database() -> sqlite3.Connection:
    """A database with the newest schema. To copy it takes a sixth of the time of the migrations (1.4 ms)."""
    cx = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    schema.migrate(cx, MemoryStore.url)
    return cx


class MemoryStore(SQLiteTransactions):
    """Implements all transactions; none is durable. Needs neither a running event loop nor `open`."""

    durable = False
    url = "memory://"

    def __init__(
        self, *, shared: bool = False, search_timeout: float = 2.0, clock: Callable[[], int] = wall_clock
    ) -> None:
        self.shared, self._search_timeout = shared, search_timeout
        self._now = clock
        self._alone = threading.RLock()  # managers in several threads may share the store

    @cached_property
    def _cx(self) -> sqlite3.Connection:
        cx = sqlite3.connect(":memory:", isolation_level=None, cached_statements=512, check_same_thread=False)
        _empty_database().backup(cx)
        contains.register(cx)
        weakref.finalize(self, cx.close)
        return cx

    async def open(self) -> None:
        """No effect."""

    async def aclose(self) -> None:
        """No effect: the rows stay readable as long as the object exists."""

    async def _write(self, transaction: Transaction[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return self._transact("COMMIT", on_connection(transaction), *args, **kwargs)

    _write_urgent = _write  # transactions never queue here

    def _transact(
        self,
        end: str,
        transaction: OnConnection[Concatenate[int, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        with self._alone:
            return self._inside(self._cx, end, transaction, *args, **kwargs)

    def _inside(
        self,
        cx: sqlite3.Connection,
        end: str,
        transaction: OnConnection[Concatenate[int, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        cx.execute("BEGIN")
        try:
            answer = transaction(cx, self._now(), *args, **kwargs)
            cx.execute(end)
        except BaseException as error:
            if cx.in_transaction:
                cx.execute("ROLLBACK")
            translated = as_store_error(error)
            if translated is error:
                raise
            raise translated from error
        return answer

    async def _read(self, query: Statement[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        with self._alone:
            return on_connection(query)(self._cx, *args, **kwargs)

    async def _search(
        self,
        query: SearchStatement[Query, P, T],
        criteria: Query,
        user_id: str | None,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        with self._alone, Search(self._search_timeout, rests=False) as search:
            return search.run(self._cx, on_connection(query), criteria, user_id, *args, **kwargs)

    def forget(self, run_id: str) -> None:
        """Removes a finished run. The last operation that changed a thread is kept, because it has the
        thread's checkpoint."""
        self._transact("COMMIT", _forget, run_id)


class PrivateStore(MemoryStore):
    """The coordination of a manager without a store. It has no history: a run that is evicted from the
    manager's memory does not exist any more."""

    async def get(self, run_id: str, *, user_id: str | None = None) -> Row | None:
        return None

    async def list_by_thread(
        self, thread_id: str, *, user_id: str | None = None, limit: int = 100
    ) -> list[Row]:
        return []


class Coordination(MemoryStore):
    """The coordination state (which run holds which thread) for a record store without it. All managers on
    one record store share it."""

    def __init__(self, *, shared: bool) -> None:
        super().__init__(shared=shared)
        self.arriving: dict[str, AdmissionRequest] = {}
        """Runs whose record is being written."""
        self.operations = set[str]()
        """Ids of operations, which hold a thread but have no record."""
        self._admissions: dict[str, tuple[asyncio.Lock, list[None]]] = {}

    @asynccontextmanager
    async def alone(self, thread_id: str) -> AsyncGenerator[None]:
        """Serialises admissions on one thread; admissions on other threads do not wait."""
        lock, users = self._admissions.setdefault(thread_id, (asyncio.Lock(), []))
        users.append(None)
        try:
            async with lock:
                yield
        finally:
            users.pop()
            if not users:
                del self._admissions[thread_id]


class MemoryRunStore(RunStore):
    """Keeps records in a dictionary, for tests and for gateways without a database."""

    def __init__(self) -> None:
        self._runs: dict[str, Row] = {}
        self.coordination = Coordination(shared=True)

    async def put(self, run_id: str, *, thread_id: str, **fields: Json) -> None:
        now = iso(wall_clock())
        known: Row = {
            "assistant_id": None,
            "user_id": None,
            "status": "pending",
            "multitask_strategy": "reject",
            "metadata": {},
            "kwargs": {},
            "error": None,
            "model_name": None,
        }
        row: Row = {**known, **fields, "run_id": run_id, "thread_id": thread_id, "updated_at": now}
        row["metadata"] = loads(dumps(row["metadata"] or {}))
        row["kwargs"] = loads(dumps_opaque(row["kwargs"] or {}))
        row["model_name"] = model_name_of(row["model_name"])
        before = self._runs.get(run_id, {})
        created = row.get("created_at") or before.get("created_at") or now
        row["created_at"] = stamp(str(created))[0]
        self._runs[run_id] = {**before, **row}

    async def get(self, run_id: str, *, user_id: str | None = None) -> Row | None:
        row = self._runs.get(run_id)
        return None if row is None or not _visible(row, user_id) else dict(row)

    async def list_by_thread(
        self, thread_id: str, *, user_id: str | None = None, limit: int = 100
    ) -> list[Row]:
        rows = [
            row for row in self._runs.values() if row["thread_id"] == thread_id and _visible(row, user_id)
        ]
        rows.sort(key=lambda row: instant(row["created_at"]) or 0, reverse=True)
        return [dict(row) for row in rows[:limit]]

    async def update_status(self, run_id: str, status: str, *, error: str | None = None) -> bool:
        row = self._runs.get(run_id)
        if row is None or not _may_take(row["status"], status):
            return False
        row.update(status=status, updated_at=iso(wall_clock()), **({} if error is None else {"error": error}))
        return True

    async def update_model_name(self, run_id: str, model_name: str | None) -> bool:
        if (row := self._runs.get(run_id)) is None:
            return False
        row["model_name"] = model_name_of(model_name)
        return True

    async def update_run_completion(self, run_id: str, *, status: str | None = None, **fields: Json) -> bool:
        row = self._runs.get(run_id)
        if row is None:
            return False
        if status is not None and not _may_take(row["status"], status):
            return False
        if status is not None and status != RunStatus.running:
            row["status"] = status
        row.update({name: value for name, value in fields.items() if value is not None})
        row["updated_at"] = iso(wall_clock())
        return True

    async def update_run_progress(self, run_id: str, **fields: Json) -> bool:
        row = self._runs.get(run_id)
        if row is None or row["status"] != RunStatus.running:
            return False
        row.update({k: v for k, v in fields.items() if v is not None and k in COUNTERS + MESSAGES})
        return True

    async def list_inflight(self, *, before: str | None = None) -> list[Row]:
        return self._open(OPEN, limit_of(before), inclusive=False)

    async def list_pending(self, *, before: str | None = None) -> list[Row]:
        return self._open(frozenset({RunStatus.pending}), limit_of(before), inclusive=True)

    def _open(self, statuses: frozenset[RunStatus], before: int | None, *, inclusive: bool) -> list[Row]:
        """Oldest first. With `before`, rows without a valid created_at are skipped."""
        matching: list[tuple[int, Row]] = []
        for row in self._runs.values():
            created = instant(row["created_at"])
            if (row["status"] or RunStatus.pending) not in statuses or (
                before is not None and created is None
            ):
                continue
            if before is None or (created or 0) < before + int(inclusive):
                matching.append((created or 0, dict(row)))
        return [row for _, row in sorted(matching, key=lambda pair: pair[0])]

    async def delete(self, run_id: str) -> None:
        self._runs.pop(run_id, None)

    async def aggregate_tokens_by_thread(self, thread_id: str, include_active: bool = False) -> JsonObject:
        counted = {"success", "error", "running"} if include_active else {"success", "error"}
        rows = [
            row for row in self._runs.values() if row["thread_id"] == thread_id and row["status"] in counted
        ]
        by_model: dict[str, dict[str, int]] = {}
        for row in rows:
            entry = by_model.setdefault(row.get("model_name") or "unknown", {"tokens": 0, "runs": 0})
            entry["tokens"] += row.get("total_tokens", 0)
            entry["runs"] += 1

        def total(name: str) -> int:
            return sum(row.get(name, 0) for row in rows)

        return {
            "total_tokens": total("total_tokens"),
            "total_input_tokens": total("total_input_tokens"),
            "total_output_tokens": total("total_output_tokens"),
            "total_runs": len(rows),
            "by_model": by_model,
            "by_caller": {
                "lead_agent": total("lead_agent_tokens"),
                "subagent": total("subagent_tokens"),
                "middleware": total("middleware_tokens"),
            },
        }


def _visible(row: Row, user_id: str | None) -> bool:
    return user_id is None or row.get("user_id") == user_id


def _may_take(old: str | None, new: str) -> bool:
    """Returns whether the transition is allowed. A terminal status is final, but may be written again."""
    if old in TERMINAL:
        return old == new
    return not (old == RunStatus.running and new == RunStatus.pending)


def _forget(cx: sqlite3.Connection, now: int, run_id: str) -> None:
    operation = cx.execute(
        "SELECT thread_id FROM runs WHERE run_id = ? AND kind = 'op' AND checkpointed", (run_id,)
    ).fetchone()
    if operation is None:
        records.delete(cx, now, run_id)
        return
    earlier = cx.execute(
        "SELECT run_id FROM runs WHERE thread_id = ? AND kind = 'op' AND run_id <> ?"
        " AND settled_at IS NOT NULL",
        (operation[0], run_id),
    ).fetchall()
    for (other,) in earlier:
        records.delete(cx, now, other)
