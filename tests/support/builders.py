"""Builders of runs, workers and owned threads, for tests of the stores."""

from __future__ import annotations

import asyncio
import itertools
import re
import sqlite3
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from stores.base import CoordinationStore
from stores.postgres import PostgresStore
from stores.rows import Admission, Limits, NewWorker, Outcome, Ownership, RunRow, WorkerRow
from stores.spec import AdmissionRequest, RunSpec
from stores.states import CancelAction, Cause, RunStatus
from tests.support.inside_stores import connect_as, connection_of
from tests.support.twins import TwinStore

_BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
_steps = itertools.count()
SUCCESS = Outcome(RunStatus.success)
ENDED = Outcome(RunStatus.interrupted)


class StoreClock:
    """The store's clock, in microseconds, moved by hand."""

    def __init__(self) -> None:
        self.micros = int(_BEGIN.timestamp()) * 1_000_000

    def __call__(self) -> int:
        return self.micros

    def advance(self, seconds: float) -> None:
        self.micros += int(seconds * 1_000_000)


def created(step: int | None = None) -> str:
    """A time of creation; without a step, later than every one before."""
    return (_BEGIN + timedelta(seconds=next(_steps) if step is None else step)).isoformat(
        timespec="microseconds"
    )


_STAMPS = frozenset(AdmissionRequest._fields) - {"spec"}


def new_run(thread_id: str = "t", **fields: Any) -> AdmissionRequest:
    """A request for admission; `fields` are those of its spec, and what a worker adds to it."""
    stamps: dict[str, Any] = {"run_id": uuid4().hex, "created_at": created()}
    stamps.update((name, fields.pop(name)) for name in list(fields) if name in _STAMPS)
    return AdmissionRequest(spec=RunSpec(thread_id=thread_id, **fields), **stamps)


def new_worker(**fields: Any) -> NewWorker:
    known: dict[str, Any] = {
        "worker_id": f"w-{uuid4().hex[:6]}",
        "host": "here",
        "boot_id": "boot-1",
        "pid": 1,
        "version": "0",
        "ttl_ms": 15_000,
    }
    return NewWorker(**{**known, **fields})


async def admitted(store: CoordinationStore, epoch: int, thread_id: str = "t", **fields: Any) -> Admission:
    return await store.admit(new_run(thread_id, **fields), epoch=epoch, limits=Limits())


async def holding(store: CoordinationStore, epoch: int, thread_id: str = "t", **fields: Any) -> Ownership:
    """Admits a run that holds its thread and has not started. This epoch owns it."""
    admission = await admitted(store, epoch, thread_id, **fields)
    assert admission.holds
    return Ownership(admission.run_id, thread_id, epoch, admission.fence)


async def running(store: CoordinationStore, epoch: int, thread_id: str = "t", **fields: Any) -> Ownership:
    own = await holding(store, epoch, thread_id, **fields)
    assert await store.start(own, {"kind": "values"}) is not None
    return own


async def waiting(store: CoordinationStore, epoch: int, thread_id: str = "t", **fields: Any) -> str:
    """Queues a run on a busy thread and returns its id."""
    admission = await admitted(store, epoch, thread_id, multitask_strategy="enqueue", **fields)
    assert not admission.holds
    return admission.run_id


async def cancel(
    store: CoordinationStore, run_id: str, action: CancelAction = CancelAction.interrupt, **fields: Any
) -> Any:
    return await store.decide(run_id, RunStatus.interrupted, action=action, cause=Cause.user, **fields)


async def row_of(store: CoordinationStore, run_id: str) -> RunRow:
    row = await store.row(run_id)
    assert row is not None
    return row


async def worker_row(store: CoordinationStore, epoch: int) -> WorkerRow:
    return next(row for row in await store.workers(alive_only=False) if row.epoch == epoch)


async def fence_epoch(store: CoordinationStore, epoch: int, *, by: int) -> None:
    assert await store.fence_worker(await worker_row(store, epoch), by=by, proven=True)


def sql_of(store: Any) -> Callable[..., list[Any]]:
    """Statements past the store, as an operator with a database shell would type them."""
    if isinstance(store, PostgresStore):
        return partial(_by_shell, store)
    if isinstance(store, TwinStore):
        return partial(_by_two_shells, store)
    path = getattr(store, "path", None)

    def execute(sql: str, *args: Any) -> list[Any]:
        if path is None:
            return list(connection_of(store).execute(sql, args))
        with closing(sqlite3.connect(path, timeout=5)) as cx, cx:
            return list(cx.execute(sql, args))

    return execute


def _by_shell(store: PostgresStore, sql: str, *args: Any) -> list[Any]:
    """Executes the statement through a connection of its own, in a thread of its own."""
    places = itertools.count(1)

    async def query() -> list[Any]:
        cx = await connect_as(store, statement_cache_size=0)
        try:
            async with cx.transaction():  # a pooler that stands in between knows nothing else
                await cx.execute(f"SET LOCAL search_path TO {store.schema}")
                numbered = re.sub(r"\?", lambda _: f"${next(places)}", sql)
                return [tuple(row) for row in await cx.fetch(numbered, *args)]
        finally:
            await cx.close()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, query()).result()


def _by_two_shells(store: TwinStore, sql: str, *args: Any) -> list[Any]:
    sql_of(store.reference)(sql, *args)
    return sql_of(store.tested)(sql, *args)


@contextmanager
def locked(path: Path) -> Generator[None]:
    """Another program holds the file's write lock, past the gate: every write times out."""
    with closing(sqlite3.connect(path, isolation_level=None)) as cx:
        cx.execute("BEGIN IMMEDIATE")
        yield
        cx.execute("ROLLBACK")


def stored(path: Path, sql: str = "SELECT run_id FROM runs") -> list[Any]:
    """The first column, as another program reads it from the file."""
    with closing(sqlite3.connect(path)) as cx:
        return [row[0] for row in cx.execute(sql)]
