"""Nothing grows with finished runs, and nothing per operation with runs in flight: CPU of each operation in a
small and in a large store, on SQLite and on PostgreSQL; the ratio is the figure.

The rows are made by SQL (bench/fleet.py). Both stores are open, and each operation is measured in one and in
the other by turns. CPU is that of this process on SQLite, and of the server's sessions on PostgreSQL.
COORDINATOR_BENCH_FINISHED=10000000 and COORDINATOR_BENCH_IN_FLIGHT=100000 set other largest sizes.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import asyncpg

from bench import fleet_sqlite
from bench.cpu import cpu_seconds
from bench.databases import fresh_database, running_server, scaled
from bench.fleet import Fleet, make
from bench.report import Measure, at_most, median
from stores.catalogue import ThreadQuery
from stores.postgres import PostgresStore
from stores.rows import Limits, NewWorker, Outcome, Ownership
from stores.spec import AdmissionRequest, RunSpec
from stores.sqlite import SQLiteStore
from stores.states import CancelAction, Cause, RunStatus

FINISHED = int(os.environ.get("COORDINATOR_BENCH_FINISHED", scaled(1_000_000, 10_000)))
IN_FLIGHT = int(os.environ.get("COORDINATOR_BENCH_IN_FLIGHT", scaled(10_000, 100)))
BATCH = 60
USED = 600
"""Threads without a run in flight that run in turn. Each has a run before the first measurement: the indexes
of a store that SQL has made are packed, and the first entry that is added to one of their pages splits it."""
SLICE = 0.3  # s, the longest a batch of reads takes
FLAT = 1.5
PEER = 5  # epoch of a worker of the fleet, which owns a tenth of the runs in flight
_SCHEMA = "coordinator"

Store = SQLiteStore | PostgresStore
Costs = dict[str, float]


class Opened(NamedTuple):
    store: Store
    epoch: int
    idle: Iterator[str]
    """Threads with history and no run in flight, again and again."""
    of_peer: list[str]
    """The runs that PEER executes."""
    cpu: Callable[[], Awaitable[dict[int, float]]]
    """CPU seconds so far, by PID."""


async def run(rounds: int) -> list[Measure]:
    axes = {
        f"1,000 → {FINISHED:,} finished": (_with_finished(1_000), _with_finished(FINISHED)),
        f"10 → {IN_FLIGHT:,} in flight": (_with_in_flight(10), _with_in_flight(IN_FLIGHT)),
    }
    measures: list[Measure] = []
    for engine, opened in (("SQLite", _sqlite), ("PostgreSQL", _postgres)):
        for axis, sizes in axes.items():
            costs: tuple[list[Costs], list[Costs]] = ([], [])
            async with AsyncExitStack() as stack:
                stores = [await stack.enter_async_context(opened(fleet)) for fleet in sizes]
                for store in stores:
                    await _use(store)
                for number in range(rounds + 1):
                    for which in (0, 1) if number % 2 else (1, 0):
                        cost = await _round(stores[which])
                        if number:
                            costs[which].append(cost)
            measures += _judged(f"{engine}, {axis}", *costs)
    return measures


def _judged(what: str, small: list[Costs], large: list[Costs]) -> list[Measure]:
    measures: list[Measure] = []
    for operation in small[0]:
        less, more = ([cost[operation] for cost in costs] for costs in (small, large))
        ratio = median([one / other for one, other in zip(more, less, strict=True)])
        note = f"{median(less):,.0f} → {median(more):,.0f} us CPU"
        measures.append(at_most(Measure("growth", f"{what}: {operation}", ratio, "x", note=note), FLAT))
    return measures


# ---- stores --------------------------------------------------------------------------------------------


def _with_finished(finished: int) -> Fleet:
    return Fleet(finished, finished // 10, 10, 10, in_flight=20, waiting=20, history=finished // 10)


def _with_in_flight(in_flight: int) -> Fleet:
    return Fleet(20_000, IN_FLIGHT + 1_000, 10, 10, in_flight, waiting=in_flight)


def _worker() -> NewWorker:
    return NewWorker("bench", "here", "boot", 1, "0", 600_000)


def _idle(fleet: Fleet) -> Iterator[str]:
    while True:
        for number in range(fleet.in_flight, min(fleet.threads, fleet.in_flight + USED)):
            yield f"t{number}"


def _of_peer(fleet: Fleet) -> list[str]:
    return [f"run{number:09}" for number in range(PEER - 1, fleet.in_flight, fleet.workers)]


@asynccontextmanager
async def _sqlite(fleet: Fleet) -> AsyncGenerator[Opened]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "runs.db"
        empty = SQLiteStore(path)
        await empty.open()
        await empty.aclose()
        fleet_sqlite.make(path, fleet)
        store = SQLiteStore(path)
        await store.open()
        try:
            yield Opened(store, await store.register(_worker()), _idle(fleet), _of_peer(fleet), _own_cpu)
        finally:
            await store.aclose()


@asynccontextmanager
async def _postgres(fleet: Fleet) -> AsyncGenerator[Opened]:
    with running_server() as server:
        async with fresh_database(server) as url:
            store = PostgresStore(url)
            await store.open()
            cx = await asyncpg.connect(url)
            try:
                await make(cx, _SCHEMA, fleet)
                epoch = await store.register(_worker())
                yield Opened(store, epoch, _idle(fleet), _of_peer(fleet), lambda: _cpu_of_sessions(cx))
            finally:
                await cx.close()
                await store.aclose()


async def _own_cpu() -> dict[int, float]:
    return {os.getpid(): time.process_time()}


async def _cpu_of_sessions(cx: asyncpg.Connection[Any]) -> dict[int, float]:
    rows = await cx.fetch(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    return {row["pid"]: cpu_seconds([row["pid"]]) for row in rows}


# ---- operations ----------------------------------------------------------------------------------------


async def _use(opened: Opened) -> None:
    for _ in range(USED):
        await opened.store.finish(await _admit(opened), Outcome(RunStatus.success))


async def _round(opened: Opened) -> Costs:
    """us of CPU of each operation."""
    store = opened.store
    costs: Costs = {}
    owned = await _timed(opened, costs, "admit", [lambda: _admit(opened) for _ in range(BATCH)])
    success = Outcome(RunStatus.success)
    await _timed(opened, costs, "finish", [lambda own=own: store.finish(own, success) for own in owned])
    owned = [await _admit(opened) for _ in range(BATCH)]
    await _timed(opened, costs, "cancel", [lambda own=own: _cancel(store, own) for own in owned])
    for own in owned:
        await store.finish(own, Outcome(RunStatus.interrupted))
    for name, read in _reads(opened).items():
        ends = time.perf_counter() + SLICE
        until = iter(lambda ends=ends: time.perf_counter() >= ends, True)
        await _timed(opened, costs, name, (read for _, _ in zip(range(BATCH), until, strict=False)))
    return costs


def _reads(opened: Opened) -> dict[str, Callable[[], Awaitable[Any]]]:
    store, epoch = opened.store, opened.epoch
    return {
        "tick": lambda: store.tick(epoch),
        "tick of a worker that has a tenth of them": lambda: store.tick(PEER, opened.of_peer),
        "sweep": lambda: store.sweep(by=epoch, error="lost"),
        "a thread": lambda: store.thread("t7"),
        "newest 10 runs of a thread": lambda: _runs_of(store, "t7"),
        "newest 10 runs of a thread with a tenth of all": lambda: _runs_of(store, "t0"),
        "newest 10 threads": lambda: store.threads(ThreadQuery(sort_by="created_at"), user_id=None),
        "latest 10 threads": lambda: store.threads(ThreadQuery(), user_id=None),
        "a page of runs in flight": lambda: store.inflight_runs(
            statuses=(), thread_id=None, user_id=None, after="", limit=10
        ),
    }


def _runs_of(store: Store, thread_id: str) -> Awaitable[Any]:
    return store.thread_runs(thread_id, statuses=(), limit=10, offset=0, user_id=None)


async def _timed(opened: Opened, costs: Costs, name: str, calls: Any) -> list[Any]:
    answers: list[Any] = []
    began = await opened.cpu()
    for call in calls:
        answers.append(await call())  # noqa: PERF401 - one after the other
    spent = sum(seconds - began.get(pid, 0) for pid, seconds in (await opened.cpu()).items())
    costs[name] = spent / len(answers) * 1e6
    return answers


async def _admit(opened: Opened) -> Ownership:
    thread_id = next(opened.idle)
    request = AdmissionRequest(uuid4().hex, RunSpec(thread_id=thread_id), "2026-01-01T00:00:00+00:00")
    admission = await opened.store.admit(request, epoch=opened.epoch, limits=Limits())
    return Ownership(request.run_id, thread_id, opened.epoch, admission.fence)


async def _cancel(store: Store, own: Ownership) -> None:
    await store.decide(own.run_id, RunStatus.interrupted, action=CancelAction.interrupt, cause=Cause.user)
