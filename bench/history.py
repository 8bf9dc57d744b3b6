"""History of PostgreSQL: a page among a million rows, a million that are pruned, and a million runs with the
pruner on. See bench/databases.py for where."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import NamedTuple

from bench.databases import SCALE, SETTLES, answer_of, fresh_database, open_stores, running_server, scaled
from bench.report import Measure, at_most, median
from bench.throughput import by_status, lives
from coordinator import open_coordinator
from coordinator.workers.pruner import prune
from stores.postgres import PostgresStore
from stores.pruning import Retention

AT_ONCE = 50
KEPT = max(30.0 * SCALE, 1.0)  # s: of a million runs that come and go, some 50,000 are there at a time
MEBIBYTE = 1 << 20
_BENCH = "history"

HISTORY = (
    "INSERT INTO coordinator.runs (run_id, thread_id, user_id, status, owner_epoch, fence, settled_at,"
    " created_at, created_us, updated_at, kwargs) SELECT 'old' || n, 't' || n % $2, 'u', 'success', 1, n, n,"
    " '2020-01-01T00:00:00Z', n, n, '{\"q\": \"' || repeat('x', 100) || '\"}'"
    " FROM generate_series(1, $1::bigint) n"
)
THREADS = (
    "INSERT INTO coordinator.threads (thread_id, user_id, created_at, updated_at)"
    " SELECT 't' || n, 'u', 1, 1 FROM generate_series(0, $1::bigint - 1) n"
)


async def run(rounds: int) -> list[Measure]:
    with running_server() as server:
        return [*await _old(server, rounds), *await _passing(server)]


def _at_full_size(measure: Measure, bound: float) -> Measure:
    """Autovacuum comes every ten seconds: it has to come several times."""
    return at_most(measure, bound) if SCALE >= 1 else measure


class Size(NamedTuple):
    """Of the tables of runs and of their audit, with all indexes, in bytes; dead tuples of both."""

    dead: int
    size: int


_SIZE = (
    "SELECT ARRAY[sum(n_dead_tup), sum(pg_total_relation_size(relid))]::bigint[] FROM pg_stat_user_tables"
    " WHERE schemaname = 'coordinator' AND relname IN ('runs', 'transitions')"
)


async def _size(url: str) -> Size:
    return Size(*await answer_of(url, _SIZE))


# ---- rows that are there -------------------------------------------------------------------------------


async def _old(server: str, rounds: int) -> list[Measure]:
    """History as it was: without its triggers, which would take an hour."""
    rows, threads = scaled(1_000_000, 5000), 100
    async with fresh_database(server) as url, open_stores(url, 1, 10) as (store,):
        await answer_of(url, "ALTER TABLE coordinator.runs DISABLE TRIGGER USER")
        await answer_of(url, THREADS, threads)
        await answer_of(url, HISTORY, rows, threads)
        await answer_of(url, "ALTER TABLE coordinator.runs ENABLE TRIGGER USER")
        await answer_of(url, "VACUUM ANALYZE coordinator.runs")
        pages: list[float] = []
        for at in range(max(rounds * 20, 20)):
            began = time.perf_counter()
            page = await store.thread_runs(f"t{at % threads}", statuses=(), limit=50, offset=0, user_id=None)
            pages.append((time.perf_counter() - began) * 1000)
            assert len(page) == 50
        listing = at_most(Measure(_BENCH, f"newest 50 of a thread, {rows:,} rows", median(pages), "ms"), 5)
        return [listing, *await _pruned(url, store, rows)]


async def _pruned(url: str, store: PostgresStore, rows: int) -> list[Measure]:
    """Everything old, in the pruner's small pieces; autovacuum comes by; then half as many come again."""
    before = await _size(url)
    began = time.perf_counter()
    removed = await prune(store, Retention(runs=3600.0))
    rate = removed.runs / (time.perf_counter() - began)
    await asyncio.sleep(SETTLES)
    after = await _size(url)
    began = time.perf_counter()
    for _ in range(300):
        if (await _size(url)).dead <= rows // 50:
            break
        await asyncio.sleep(0.2)
    vacuumed = time.perf_counter() - began
    await answer_of(url, HISTORY.replace("'old'", "'new'"), rows // 2, 100)
    again = (await _size(url)).size / before.size
    return [
        Measure(_BENCH, "pruned, with its rests", rate, "runs/s", note=f"{removed.runs:,} of {rows:,}"),
        Measure(_BENCH, "dead tuples after that", after.dead, "", note="autovacuum on"),
        Measure(_BENCH, "until autovacuum has made room of them", vacuumed, "s"),
        Measure(_BENCH, "tables before, with indexes", before.size / MEBIBYTE, "MiB"),
        Measure(_BENCH, "tables after", after.size / MEBIBYTE, "MiB"),
        _at_full_size(
            Measure(_BENCH, "tables when half as many have come again", again, "x of before"), 1.25
        ),
    ]


# ---- runs that come and go -----------------------------------------------------------------------------


async def _passing(server: str) -> list[Measure]:
    """Whole lives as fast as one worker can, kept for half a minute after they settled by its own pruner."""
    runs, sizes = scaled(1_000_000, 5000), list[Size]()
    async with (
        fresh_database(server) as url,
        open_coordinator(
            url, keep_finished=KEPT, keep_finished_max=1000, keep_runs=KEPT, prune=KEPT / 15
        ) as manager,
    ):

        async def watch() -> None:
            while True:
                await asyncio.sleep(1.0)
                sizes.append(await _size(url))

        watching = asyncio.create_task(watch())
        began = time.perf_counter()
        await lives(manager, by_status, AT_ONCE, runs)
        rate = runs / (time.perf_counter() - began)
        await asyncio.sleep(SETTLES)
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        left: int = await answer_of(url, "SELECT count(*) FROM coordinator.runs")
    tenths = [max(size.size for size in _part(sizes, at)) for at in range(10)]
    return [
        Measure(_BENCH, f"{runs:,} runs with the pruner on", rate, "runs/s", note=f"{left:,} are left"),
        Measure(
            _BENCH,
            "dead tuples, most and at the end",
            max(s.dead for s in sizes),
            "",
            note=f"{sizes[-1].dead:,}",
        ),
        Measure(_BENCH, "tables at the end, with indexes", sizes[-1].size / MEBIBYTE, "MiB"),
        _at_full_size(
            Measure(_BENCH, "largest in the last tenth to the second tenth", tenths[-1] / tenths[1], "x"),
            1.25,
        ),
    ]


def _part(sizes: list[Size], tenth: int) -> list[Size]:
    first = tenth * len(sizes) // 10
    return sizes[first : max((tenth + 1) * len(sizes) // 10, first + 1)]
