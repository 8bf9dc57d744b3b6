"""Runs, workers and owned threads for checks of a store, and the clock that they move."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, TypeAlias
from uuid import uuid4

from stores.base import CoordinationStore
from stores.rows import (
    Admission,
    Decision,
    Limits,
    NewWorker,
    Outcome,
    Ownership,
    RunRow,
    ThreadRow,
    WorkerRow,
)
from stores.spec import AdmissionRequest, RunSpec
from stores.states import CancelAction, Cause, RunStatus

_BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
_steps = itertools.count()
SUCCESS = Outcome(RunStatus.success)
ENDED = Outcome(RunStatus.interrupted)
Field: TypeAlias = Any
"""The value of a field. Any: the constructor to which it is passed by name has its type."""
STRATEGIES = ("reject", "enqueue", "interrupt", "rollback")


class StoreClock:
    """A clock for a store, in microseconds since 1970, which only `advance` moves."""

    def __init__(self) -> None:
        self.micros = int(_BEGIN.timestamp()) * 1_000_000

    def __call__(self) -> int:
        return self.micros

    def advance(self, seconds: float) -> None:
        self.micros += int(seconds * 1_000_000)


class StoreCase(NamedTuple):
    """An open, empty store, and the clock that it uses."""

    store: CoordinationStore
    clock: StoreClock

    async def workers(self) -> tuple[int, int]:
        """Registers two workers of one host; returns their epochs."""
        return await self.store.register(new_worker()), await self.store.register(new_worker())


def created(step: int | None = None) -> str:
    """A time of creation: `step` seconds after the clock's beginning; without it, later than all before."""
    return (_BEGIN + timedelta(seconds=next(_steps) if step is None else step)).isoformat(
        timespec="microseconds"
    )


_STAMPS = frozenset(AdmissionRequest._fields) - {"spec"}


def new_run(thread_id: str = "t", **fields: Field) -> AdmissionRequest:
    """A request for admission; `fields` are those of its spec, and what a worker adds to it."""
    stamps: dict[str, Field] = {"run_id": uuid4().hex, "created_at": created()}
    stamps.update((name, fields.pop(name)) for name in list(fields) if name in _STAMPS)
    return AdmissionRequest(spec=RunSpec(thread_id=thread_id, **fields), **stamps)


def new_worker(**fields: Field) -> NewWorker:
    """Of the host `here`, with a lease of 15 s."""
    known: dict[str, Field] = {
        "worker_id": f"w-{uuid4().hex[:6]}",
        "host": "here",
        "boot_id": "boot-1",
        "pid": 1,
        "version": "0",
        "ttl_ms": 15_000,
    }
    return NewWorker(**{**known, **fields})


async def admitted(store: CoordinationStore, epoch: int, thread_id: str = "t", **fields: Field) -> Admission:
    return await store.admit(new_run(thread_id, **fields), epoch=epoch, limits=Limits())


async def holding(store: CoordinationStore, epoch: int, thread_id: str = "t", **fields: Field) -> Ownership:
    """A run of this epoch that holds the thread and has not started."""
    admission = await admitted(store, epoch, thread_id, **fields)
    assert admission.holds
    return Ownership(admission.run_id, thread_id, epoch, admission.fence)


async def running(store: CoordinationStore, epoch: int, thread_id: str = "t", **fields: Field) -> Ownership:
    own = await holding(store, epoch, thread_id, **fields)
    assert await store.start(own, {"kind": "values"}) is not None
    return own


async def waiting(store: CoordinationStore, epoch: int, thread_id: str = "t", **fields: Field) -> str:
    """A run in the queue of a busy thread."""
    admission = await admitted(store, epoch, thread_id, multitask_strategy="enqueue", **fields)
    assert not admission.holds
    return admission.run_id


async def cancel(
    store: CoordinationStore, run_id: str, action: CancelAction = CancelAction.interrupt, **fields: Field
) -> Field:
    return await store.decide(run_id, RunStatus.interrupted, action=action, cause=Cause.user, **fields)


async def decided(store: CoordinationStore, run_id: str, **fields: Field) -> Decision:
    """The decision that a cancel of a known run returns."""
    decision = await cancel(store, run_id, **fields)
    assert decision is not None
    return decision


async def row_of(store: CoordinationStore, run_id: str) -> RunRow:
    row = await store.row(run_id)
    assert row is not None
    return row


async def thread_of(store: CoordinationStore, thread_id: str = "t") -> ThreadRow:
    thread = await store.thread(thread_id)
    assert thread is not None
    return thread


async def worker_row(store: CoordinationStore, epoch: int) -> WorkerRow:
    return next(row for row in await store.workers(alive_only=False) if row.epoch == epoch)


async def declared_dead(store: CoordinationStore, epoch: int, *, by: int) -> None:
    assert await store.fence_worker(await worker_row(store, epoch), by=by, proven=True)
