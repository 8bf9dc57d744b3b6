"""The store for many hosts: lives of runs a second, beside a queue of jobs; cancels by NOTIFY; one contended
thread. See bench/databases.py for where."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from bench.cancel import cancel_elsewhere
from bench.databases import SCALE, SETTLES, answer_of, fresh_database, open_stores, running_server, scaled
from bench.processes import workers
from bench.queue import jobs_a_second
from bench.report import Measure, at_least, at_most, median, quantile
from bench.throughput import by_status, lives
from coordinator import open_coordinator
from stores.errors import ConflictError
from stores.postgres import PostgresStore
from stores.rows import Limits, NewWorker, Outcome, Ownership
from stores.spec import AdmissionRequest, RunSpec
from stores.states import RunStatus

AT_ONCE = 50
TURNS = 10
_BENCH = "postgres"


async def run(rounds: int) -> list[Measure]:
    measures: list[Measure] = []
    with running_server() as server:
        for part in (_throughput, _processes, _cancels, _contended):
            measures += await part(server, rounds)
    return measures


# ---- throughput ----------------------------------------------------------------------------------------


async def _throughput(server: str, rounds: int) -> list[Measure]:
    runs, rates, queue = scaled(6000, 300), list[float](), list[float]()
    for _ in range(rounds):
        async with fresh_database(server) as url, open_coordinator(url) as manager:
            await lives(manager, by_status, AT_ONCE, runs // 10)
            began = time.perf_counter()
            await lives(manager, by_status, AT_ONCE, runs)
            rates.append(runs / (time.perf_counter() - began))
        async with fresh_database(server) as url:
            if (rate := await jobs_a_second(url, runs, AT_ONCE)) is not None:
                queue.append(rate)
    rate = median(rates)
    measures = [
        at_least(Measure(_BENCH, f"admit + start + finish, {AT_ONCE} at once", rate, "runs/s"), 1500),
        *[await _transactions(server, at_once) for at_once in (1, AT_ONCE)],
    ]
    if not queue:
        return [
            *measures,
            Measure(_BENCH, "procrastinate", 0, "jobs/s", note="NOT RUN: could not be fetched"),
        ]
    theirs = median(queue)
    return [
        *measures,
        Measure(_BENCH, f"procrastinate: defer + fetch + finish, {AT_ONCE} at once", theirs, "jobs/s"),
        at_least(Measure(_BENCH, "times procrastinate", rate / theirs, "x"), 2),
    ]


async def _transactions(server: str, at_once: int) -> Measure:
    """Of everything a worker does meanwhile, its hints, ticks and heartbeats included."""
    runs = scaled(2000, 100)
    async with fresh_database(server) as url, open_coordinator(url) as manager:
        await lives(manager, by_status, at_once, 50)
        before = await _committed(url)
        await lives(manager, by_status, at_once, runs)
        a_run = (await _committed(url) - before - 1) / runs
    measure = Measure(_BENCH, f"transactions a run, {at_once} at once", a_run, "")
    return at_most(measure, 3) if at_once > 1 else measure


async def _committed(url: str) -> int:
    await asyncio.sleep(SETTLES)
    count: int = await answer_of(
        url, "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
    )
    return count


async def _processes(server: str, rounds: int) -> list[Measure]:
    """Four processes beside one, each with so many runs at once. They share the cores with the server: where
    one process keeps more than 1 / 1.6 of them busy, four cannot do 1.6 times as much."""
    measures: list[Measure] = []
    for at_once in (1, 5, AT_ONCE):
        (one, busy), (four, busier) = [
            await _without_pause(server, rounds, processes=count, at_once=at_once) for count in (1, 4)
        ]
        cores = os.cpu_count() or 1
        note = f"{busy:.1f} and {busier:.1f} of {cores} cores are busy"
        times = Measure(_BENCH, f"4 processes to 1, {at_once} at once in each", four / one, "x", note=note)
        measures += [
            Measure(_BENCH, f"1 process, {at_once} at once", one, "runs/s"),
            Measure(_BENCH, f"4 processes, {at_once} at once in each", four, "runs/s"),
            at_least(times, 1.6) if busy <= cores / 1.6 else times,
        ]
    return measures


async def _without_pause(server: str, rounds: int, *, processes: int, at_once: int) -> tuple[float, float]:
    """Finished runs a second, counted in the table, and how many cores of the machine are busy meanwhile."""
    rates, busy = list[float](), list[float]()
    for _ in range(rounds):
        async with fresh_database(server) as url:
            await _ready(url)
            async with workers(processes, url, None) as team:
                for worker in team:
                    await worker.call("saturate", at_once=at_once)
                await asyncio.sleep(1)
                before, work, began = await _finished(url), _core_seconds(), time.perf_counter()
                await asyncio.sleep(max(5 * SCALE, 1))
                took, worked = time.perf_counter() - began, _core_seconds() - work
                rates.append((await _finished(url) - before) / took)
                busy.append(worked / took)
    return median(rates), median(busy)


def _core_seconds() -> float:
    """Of the whole machine, since it started; 0 if that is unknown. See proc(5), /proc/stat."""
    try:
        first = Path("/proc/stat").read_text("ascii").partition("\n")[0]
    except OSError:
        return 0.0
    user, nice, system, _, _, *interrupts = map(int, first.split()[1:8])
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


async def _ready(url: str) -> None:
    store = PostgresStore(url)
    await store.open()
    await store.aclose()


async def _finished(url: str) -> int:
    count: int = await answer_of(url, "SELECT count(*) FROM coordinator.runs WHERE status = 'success'")
    return count


# ---- cancels -------------------------------------------------------------------------------------------


async def _cancels(server: str, rounds: int) -> list[Measure]:
    took: list[float] = []
    for _ in range(rounds):
        async with fresh_database(server) as url:
            await _ready(url)
            async with workers(2, url, None) as (owner, other):
                await asyncio.sleep(0.5)  # until both listen
                took += [await cancel_elsewhere(owner, other, n) for n in range(scaled(300, 20))]
    return [
        at_most(Measure(_BENCH, "cancel on another process by NOTIFY, median", median(took), "ms"), 5),
        Measure(_BENCH, "cancel on another process by NOTIFY, p99", quantile(took, 0.99), "ms"),
    ]


# ---- one contended thread ------------------------------------------------------------------------------


def _run_of(thread_id: str) -> AdmissionRequest:
    return AdmissionRequest(uuid4().hex, RunSpec(thread_id=thread_id), "2026-01-01T00:00:00+00:00")


async def _epoch(store: PostgresStore) -> int:
    return await store.register(NewWorker("bench", "here", "boot", 1, "0", 600_000))


async def _life(store: PostgresStore, epoch: int, thread_id: str) -> None:
    run = await store.admit(_run_of(thread_id), epoch=epoch, limits=Limits())
    await store.finish(Ownership(run.run_id, thread_id, epoch, run.fence), Outcome(RunStatus.success))


_Rival = tuple[PostgresStore, int, str]
"""A store, its worker's epoch, and the thread that it admits to."""


async def _contended(server: str, rounds: int) -> list[Measure]:
    """Five workers with ten connections each admit to one thread, or to fifty that are held: the same work
    without the contention. A sixth one works on threads of its own meanwhile."""
    del rounds
    count, wrong = scaled(10_000, 100), 0
    meanwhile, apart = list[float](), list[float]()
    async with fresh_database(server) as url, open_stores(url, 6, 10) as (aside, *stores):
        mine = await _epoch(aside)
        asking = [(store, await _epoch(store)) for store in stores]
        alone = await _latencies(aside, mine, scaled(1000, 100))
        together: list[_Rival] = [(*who, "contended") for who in asking for _ in range(10)]
        each: list[_Rival] = [(*who, f"held-{at}-{n}") for at, who in enumerate(asking) for n in range(10)]
        for rival in each:
            assert await _try(*rival) is not None
        for _ in range(TURNS):  # the machine is shared: what is compared takes turns
            for rivals, latencies, part in ((together, meanwhile, 1.0), (each, apart, 0.1)):
                with _watched(aside, mine, latencies) as watching:
                    for _ in range(round(count * part) // TURNS):
                        won = await _round(rivals)
                        wrong += len(won) != (rivals is together)
                await watching
        holders = await answer_of(
            url, "SELECT count(*) FROM coordinator.runs WHERE thread_id = 'contended' AND fence > 0"
        )
    slower = median(meanwhile) / median(apart)
    beside = median(meanwhile) / median(alone)
    return [
        at_most(
            Measure(
                _BENCH, "rounds without exactly one holder", wrong, "", note=f"of {count}, 50 admissions"
            ),
            0,
        ),
        Measure(_BENCH, "admissions to the contended thread", float(holders), ""),
        at_most(Measure(_BENCH, "another thread meanwhile, to 50 who do not contend", slower, "x"), 1.2),
        Measure(_BENCH, "another thread meanwhile, to alone", beside, "x", note="shares the cores"),
    ]


@contextmanager
def _watched(store: PostgresStore, epoch: int, latencies: list[float]) -> Generator[asyncio.Task[None]]:
    """Lives on other threads during the block."""
    over = asyncio.Event()

    async def watch() -> None:
        latencies.extend(await _latencies(store, epoch, None, over))

    task = asyncio.create_task(watch())
    try:
        yield task
    finally:
        over.set()


async def _round(rivals: Sequence[_Rival]) -> list[Ownership]:
    """Admits all at once; a worker that gets a thread frees it again."""
    won = [(rival[0], own) for rival, own in zip(rivals, await asyncio.gather(
        *(_try(*rival) for rival in rivals)), strict=True) if own is not None]  # fmt: skip
    for store, own in won:
        await store.finish(own, Outcome(RunStatus.success))
    return [own for _, own in won]


async def _try(store: PostgresStore, epoch: int, thread_id: str) -> Ownership | None:
    try:
        run = await store.admit(_run_of(thread_id), epoch=epoch, limits=Limits())
    except ConflictError:
        return None
    return Ownership(run.run_id, thread_id, epoch, run.fence)


async def _latencies(
    store: PostgresStore, epoch: int, count: int | None, over: asyncio.Event | None = None
) -> list[float]:
    took: list[float] = []
    numbers = itertools.count() if count is None else range(count)
    for number in numbers:
        if over is not None and over.is_set():
            break
        began = time.perf_counter()
        await _life(store, epoch, f"aside-{number % 100}")
        took.append(time.perf_counter() - began)
        with suppress(TimeoutError):
            async with asyncio.timeout(0.005):
                await (over or asyncio.Event()).wait()
    return took
