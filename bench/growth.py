"""Nothing grows with finished runs: admission with 0 and with 100,000 finished rows in the store."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
import time
from pathlib import Path

from bench.report import Measure, at_most, median
from bench.throughput import by_status
from coordinator import RunManager, open_coordinator

FINISHED = 100_000
THREADS = 50
RUNS = 1_500


async def run(rounds: int) -> list[Measure]:
    with tempfile.TemporaryDirectory() as folder:
        empty, full = Path(folder) / "empty.db", Path(folder) / "full.db"
        await _filled(full)
        times: dict[Path, list[float]] = {empty: [], full: []}
        stores = (open_coordinator(f"sqlite:///{path}") for path in (empty, full))
        async with next(stores) as one, next(stores) as other:
            for _ in range(2 * rounds + 1):  # in turn, so that a drift of the machine meets both
                for path, manager in ((empty, one), (full, other)):
                    times[path].append(await _admissions(manager))
    few, many = (median(times[path][1:]) for path in (empty, full))
    return [
        Measure("growth", "admission, empty store", few, "us"),
        at_most(
            Measure("growth", f"admission, {FINISHED:,} finished rows, against empty", many / few, "x"), 1.2
        ),
    ]


async def _admissions(manager: RunManager) -> float:
    """Mean time of a `reject` admission on idle threads whose history is long."""
    spent = 0.0
    for number in range(RUNS // THREADS):
        for thread in range(THREADS):
            began = time.perf_counter()
            record = await manager.create_or_reject(f"thread-{thread}", "agent")
            spent += time.perf_counter() - began
            await manager.set_status(record.run_id, "success")
        if number % 10 == 0:
            await asyncio.sleep(0)
    return spent / RUNS * 1e6


async def _filled(path: Path) -> None:
    """A store with FINISHED finished runs: some by the manager itself, the rest multiplied in SQL."""
    async with open_coordinator(f"sqlite:///{path}") as manager:
        for number in range(100):
            await by_status(manager, f"thread-{number % THREADS}")
    cx = sqlite3.connect(path)
    columns = [row[1] for row in cx.execute("PRAGMA table_info(runs)") if row[1] != "run_id"]
    names = ", ".join(columns)
    with cx:
        cx.execute(
            "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL"  # noqa: S608 - column names of our own schema
            f" SELECT i + 1 FROM n WHERE i < {FINISHED // 100 - 1})"
            f" INSERT INTO runs (run_id, {names}) SELECT run_id || '-' || i, {names} FROM runs, n"
        )
    cx.close()
