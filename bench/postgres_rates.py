"""What goes out in batches besides the plain life, 50 at once: cancels, admissions with keys; with
ticks meanwhile. And what a worker does while a stranger holds rows. See bench/databases.py for where."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any
from uuid import uuid4

import asyncpg

from bench.databases import fresh_database, open_stores, running_server, scaled
from bench.report import Measure, at_least, at_most, median
from stores.postgres import PostgresStore
from stores.rows import Limits, NewWorker, Outcome, Ownership
from stores.spec import AdmissionRequest, RunSpec
from stores.states import CancelAction, Cause, RunStatus

AT_ONCE = 50
_BENCH = "postgres_rates"


async def run(rounds: int) -> list[Measure]:
    cancels, ticks, keys, waits = list[float](), list[float](), list[float](), dict[str, list[float]]()
    with running_server() as server:
        for _ in range(rounds):
            async with fresh_database(server) as url, open_stores(url, 1, 10) as (store,):
                epoch = await store.register(NewWorker("bench", "here", "boot", 1, "0", 600_000))
                rate, longest = await _cancels(store, epoch)
                cancels.append(rate)
                ticks.append(longest * 1000)
                keys.append(await _keys(store, epoch))
                for what, took in (await _strangers(url, store, epoch)).items():
                    waits.setdefault(what, []).append(took)
    return [
        at_least(Measure(_BENCH, f"cancels, {AT_ONCE} at once", median(cancels), "/s"), 1500),
        Measure(_BENCH, "longest tick meanwhile", median(ticks), "ms"),
        at_least(Measure(_BENCH, f"admissions with a key, {AT_ONCE} at once", median(keys), "/s"), 2500),
        *(
            at_most(Measure(_BENCH, f"{what}, while others wait for locked rows", median(took), "s"), 1)
            for what, took in waits.items()
        ),
    ]


def _run(thread_id: str, *, request_hash: str | None = None, **fields: Any) -> AdmissionRequest:
    spec = RunSpec(thread_id=thread_id, **fields)
    return AdmissionRequest(uuid4().hex, spec, "2026-01-01T00:00:00+00:00", request_hash=request_hash)


async def _admitted(store: PostgresStore, epoch: int, run: AdmissionRequest) -> Ownership:
    made = await store.admit(run, epoch=epoch, limits=Limits())
    return Ownership(run.run_id, run.spec.thread_id, epoch, made.fence)


async def _cancel(store: PostgresStore, run_id: str) -> None:
    await store.decide(run_id, RunStatus.interrupted, action=CancelAction.interrupt, cause=Cause.user)


async def _rate(calls: Iterator[Callable[[], Awaitable[Any]]]) -> float:
    """Calls a second, so many at once."""
    made = 0

    async def one_after_another() -> None:
        nonlocal made
        for call in calls:
            await call()
            made += 1

    began = time.perf_counter()
    await asyncio.gather(*(one_after_another() for _ in range(AT_ONCE)))
    return made / (time.perf_counter() - began)


async def _cancels(store: PostgresStore, epoch: int) -> tuple[float, float]:
    """Cancels a second, and the longest tick (s) meanwhile."""
    count, ticks = scaled(5000, 300), list[float]()
    owned = await asyncio.gather(*(_admitted(store, epoch, _run(f"c{n}")) for n in range(count)))
    for own in owned[:20]:
        await _cancel(store, own.run_id)

    async def tick() -> None:
        while True:
            began = time.perf_counter()
            await store.tick(epoch)
            ticks.append(time.perf_counter() - began)
            await asyncio.sleep(0.1)

    ticking = asyncio.create_task(tick())
    rate = await _rate(iter([lambda own=own: _cancel(store, own.run_id) for own in owned[20:]]))
    ticking.cancel()
    with suppress(asyncio.CancelledError):
        await ticking
    return rate, max(ticks)


async def _keys(store: PostgresStore, epoch: int) -> float:
    async def admit(number: int) -> None:
        await _admitted(store, epoch, _run(f"k{number}", idempotency_key=f"k{number}", request_hash="h"))

    for number in range(20):
        await admit(number)
    return await _rate(iter([lambda n=n: admit(n) for n in range(20, scaled(5000, 300))]))


async def _strangers(url: str, store: PostgresStore, epoch: int) -> dict[str, float]:
    """Seconds that each takes while cancels and an admission wait for rows that another session has
    locked."""
    locked = [await _admitted(store, epoch, _run(f"locked{n}")) for n in range(4)]
    free = [await _admitted(store, epoch, _run(f"free{n}")) for n in range(2)]
    cx = await asyncpg.connect(url)
    try:
        async with cx.transaction():
            await cx.execute("SELECT FROM coordinator.threads WHERE thread_id LIKE 'locked%' FOR UPDATE")
            await cx.execute(
                "SELECT FROM coordinator.runs WHERE run_id = ANY ($1) FOR UPDATE",
                [own.run_id for own in locked],
            )
            waiting: list[asyncio.Task[Any]] = [
                *(asyncio.create_task(_cancel(store, own.run_id)) for own in locked),
                asyncio.create_task(_admitted(store, epoch, _run("locked0", multitask_strategy="enqueue"))),
            ]
            await asyncio.sleep(0.3)
            calls: dict[str, Coroutine[Any, Any, Any]] = {
                "another cancel": _cancel(store, free[0].run_id),
                "a tick": store.tick(epoch),
                "an admission": _admitted(store, epoch, _run("new")),
                "an end": store.finish(free[1], Outcome(RunStatus.success)),
                "a drain": store.drain(epoch),
            }
            took: dict[str, float] = {}
            for what, call in calls.items():
                began = time.perf_counter()
                await call
                took[what] = time.perf_counter() - began
        await asyncio.gather(*waiting, return_exceptions=True)
    finally:
        await cx.close()
    return took
