"""A worker that kills itself with SIGKILL at a named point of its code.

The shipped code does not contain these points. They are in the test's own store, which wraps a few methods of
the real one, and in the agents of the workload.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from coordinator import RunManager, Settings
from coordinator.bootstrap import POSTGRES, _postgres_options, _transport
from coordinator.telemetry import Hook
from coordinator.telemetry.log import LoggingHook
from stores.postgres import PostgresStore
from stores.rows import (
    Admission,
    Claimed,
    Decision,
    Finish,
    Json,
    Limits,
    NewWorker,
    NextStart,
    Outcome,
    Ownership,
    Started,
    WorkerRow,
)
from stores.spec import AdmissionRequest
from stores.sqlite import SQLiteStore
from stores.transactions import SQLTransactions

POINTS = {
    "admitted": "after the commit of an admission, before its caller has the answer",
    "claimed": "after the commit of a claim by a queued run, before its task starts",
    "started": "after `running` was committed, before the agent began",
    "decided": "between the commit of a cancel and its publication",
    "unwinding": "in the agent's `except CancelledError`",
    "to restore": "when a run is to be rolled back, before the state is restored",
    "restored": "after the state was restored, before the run settles",
    "finished": "after a run settled, before its slot is released and the next run is notified",
    "fenced": "after a peer was declared dead, before its runs are ended",
}
"""Where a worker can be killed."""


class Points:
    """At most one point is armed; the worker that reaches it dies."""

    def __init__(self) -> None:
        self.armed: str | None = None

    def reach(self, point: str) -> None:
        if point == self.armed:
            os.kill(os.getpid(), signal.SIGKILL)


class Clock:
    """The store's and this process' wall clock, with a jump."""

    def __init__(self) -> None:
        self.jump = 0
        self._real = time.time_ns
        time.time_ns = self.time_ns

    def time_ns(self) -> int:
        return self._real() + self.jump * 1_000_000_000

    def __call__(self) -> int:
        return self.time_ns() // 1000


class Mortal(SQLTransactions):
    """Adds the points to a store. With a `host` of its own a worker seems to be on another machine, where no
    operating system proves its death: peers need both evidences, an expired lease and missing heartbeats.
    (`boot_id` stays: SQLite's locks work as between two containers of one machine.)"""

    _points: Points
    _host: str | None

    async def register(self, worker: NewWorker) -> int:
        return await super().register(worker if self._host is None else replace(worker, host=self._host))

    def proven_dead(self, peer: WorkerRow) -> bool:
        return self._host in (None, peer.host) and super().proven_dead(peer)

    def proven_alive(self, peer: WorkerRow) -> bool:
        return self._host in (None, peer.host) and super().proven_alive(peer)

    async def admit(self, request: AdmissionRequest, *, epoch: int, limits: Limits) -> Admission:
        admission = await super().admit(request, epoch=epoch, limits=limits)
        self._points.reach("admitted")
        return admission

    async def claim(self, thread_id: str, *, epoch: int) -> Claimed | None:
        claimed = await super().claim(thread_id, epoch=epoch)
        if claimed is not None:
            self._points.reach("claimed")
        return claimed

    async def start(self, own: Ownership, rollback_ref: Json) -> Started | None:
        started = await super().start(own, rollback_ref)
        if started is not None:
            self._points.reach("started")
        return started

    async def decide(self, run_id: str, *args: Any, **kwargs: Any) -> Decision | None:
        decision = await super().decide(run_id, *args, **kwargs)
        if decision is not None and decision.won:
            self._points.reach("decided")
        return decision

    async def restore(self, own: Ownership) -> Json:
        self._points.reach("to restore")
        values = await super().restore(own)
        self._points.reach("restored")
        return values

    async def finish(
        self, own: Ownership, outcome: Outcome, *, hold: bool = False, following: NextStart | None = None
    ) -> Finish:
        finish = await super().finish(own, outcome, hold=hold, following=following)
        if not finish.lost and not finish.undo and not hold:
            self._points.reach("finished")
        return finish

    async def fence_worker(self, peer: WorkerRow, *, by: int, proven: bool) -> bool:
        fenced = await super().fence_worker(peer, by=by, proven=proven)
        if fenced:
            self._points.reach("fenced")
        return fenced


class MortalSQLite(Mortal, SQLiteStore):
    def __init__(
        self, path: Path, points: Points, clock: Callable[[], int], host: str | None, settings: Settings
    ) -> None:
        super().__init__(
            path,
            synchronous=settings.sqlite_synchronous,
            busy_timeout=settings.busy_timeout,
            clock=clock,
        )
        self._points, self._host = points, host


class MortalPostgres(Mortal, PostgresStore):
    """Its clock is the server's, which a jump of a worker's clock does not move."""

    def __init__(self, points: Points, host: str | None, settings: Settings) -> None:
        super().__init__(settings.store, _postgres_options(settings), migrate=False)
        self._points, self._host = points, host


@asynccontextmanager
async def open_mortal(
    settings: Settings, points: Points, clock: Callable[[], int], host: str | None, hook: Hook
) -> AsyncGenerator[RunManager]:
    """As `open_coordinator`, with the store that may kill this process."""
    store: Mortal
    if settings.store.startswith(POSTGRES):
        store = MortalPostgres(points, host, settings)
    else:
        store = MortalSQLite(Path(settings.store.removeprefix("sqlite:///")), points, clock, host, settings)
    transport = _transport(settings.redis, settings.store, settings, store)
    manager = RunManager(
        store,
        settings=settings,
        notifier=transport.notifier,
        slots=transport.slots,
        event_log=transport.event_log,
        hooks=(LoggingHook(), hook),
    )
    try:
        async with manager:
            yield manager
    finally:
        await store.aclose()
        await transport.aclose()
