"""`python -m bench.sizing`: the table of docs/guides/sizing.md, computed from bench/costs.json."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bench.costs import Costs

SWEEP = 5.0  # s, the default interval of sweeps
CONNECTIONS = 19
"""Of a worker to PostgreSQL, at most, with the default settings."""
BATCHES_FROM = 100.0
"""Runs per second of one worker from which its writes go out in batches: its commits follow each other."""
WORKERS = (10, 100, 1_000)
RATES = (100, 1_000, 10_000)


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the servers have."""

    postgres_cores: float = 16
    postgres_connections: float = 5_000
    wal: float = 200e6
    """Bytes per second."""
    redis_cores: float = 1
    """Redis executes commands in one thread."""


class Demand(NamedTuple):
    """What an installation takes. Each field has the unit of its field of Capacity."""

    postgres_cores: float
    postgres_connections: float
    idle_connections: float
    wal: float
    redis_cores: float
    worker_cores: float
    """Of one worker, whose event loop has one."""


def demand(costs: Costs, workers: int, runs_per_second: float) -> Demand:
    """Of `workers` that execute so many runs per second together, over HTTP, with Redis."""
    each = runs_per_second / workers
    run = costs.run_postgres_cpu_batched if each >= BATCHES_FROM else costs.run_postgres_cpu_alone
    idle = costs.idle_postgres_cpu + workers * costs.peer_cpu / SWEEP
    redis = workers * costs.idle_redis_cpu + runs_per_second * costs.run_redis_cpu
    return Demand(
        postgres_cores=(workers * idle + runs_per_second * run) / 1e6,
        postgres_connections=workers * CONNECTIONS,
        idle_connections=workers * costs.idle_postgres_connections,
        wal=runs_per_second * costs.run_wal,
        redis_cores=redis / 1e6,
        worker_cores=each * costs.run_worker_cpu / 1e6,
    )


def first_limit(needed: Demand, capacity: Capacity) -> tuple[str, float]:
    """What gives out first, and which share of it is needed; over 1 the installation is too small."""
    shares = {
        "CPU of PostgreSQL": needed.postgres_cores / capacity.postgres_cores,
        "connections": needed.postgres_connections / capacity.postgres_connections,
        "WAL": needed.wal / capacity.wal,
        "CPU of Redis": needed.redis_cores / capacity.redis_cores,
        "workers": needed.worker_cores,
    }
    name = max(shares, key=lambda name: shares[name])
    return name, shares[name]


def hint_cores(costs: Costs, workers: int, hints_per_second: float) -> float:
    """Cores of PostgreSQL for hints by NOTIFY, without Redis: each wakes every session that listens."""
    return workers * hints_per_second * costs.wake_up_cpu / 1e6


def table(costs: Costs, capacity: Capacity, workers: Sequence[int], rates: Sequence[int]) -> str:
    head = (
        "| workers | runs/s | PostgreSQL, cores | connections | WAL, MB/s | Redis, cores | a worker, cores"
        " | first limit |"
    )
    rows = [head, "|--:|--:|--:|--:|--:|--:|--:|---|"]
    for count in workers:
        for rate in rates:
            needed = demand(costs, count, rate)
            name, share = first_limit(needed, capacity)
            rows.append(
                f"| {count:,} | {rate:,} | {needed.postgres_cores:.1f} | {needed.idle_connections:,.0f};"
                f" {needed.postgres_connections:,.0f} | {needed.wal / 1e6:.1f} | {needed.redis_cores:.2f}"
                f" | {needed.worker_cores:.2f} | {name}, {share:.0%} |"
            )
    return "\n".join(rows)


def constants(costs: Costs) -> str:
    """The measured constants, as a table."""
    rows = {
        "idle worker, CPU of PostgreSQL": f"{costs.idle_postgres_cpu / 1000:.1f} ms per second",
        "the same without Redis": f"{costs.idle_postgres_cpu_without_redis / 1000:.1f} ms per second",
        "idle worker, statements on PostgreSQL": f"{costs.idle_postgres_statements:.1f} per second",
        "idle worker, sessions of PostgreSQL": f"{costs.idle_postgres_connections:.0f} (most: {CONNECTIONS})",
        "idle worker, Redis commands": f"{costs.idle_redis_commands:.1f} per second",
        "idle worker, CPU of Redis": f"{costs.idle_redis_cpu / 1000:.2f} ms per second",
        "worker, connections to Redis": f"{costs.redis_connections:.0f}",
        "sweep, CPU of PostgreSQL for each live worker": f"{costs.peer_cpu:.1f} µs",
        "run, CPU of PostgreSQL, alone on its worker": f"{costs.run_postgres_cpu_alone:,.0f} µs",
        "run, CPU of PostgreSQL, among 50 at once": f"{costs.run_postgres_cpu_batched:,.0f} µs",
        "run, WAL": f"{costs.run_wal / 1000:.1f} kB",
        "run, Redis commands": f"{costs.run_redis_commands:.1f}",
        "run, CPU of Redis": f"{costs.run_redis_cpu:.0f} µs",
        "run, CPU of its worker, over HTTP, among 16 at once": f"{costs.run_worker_cpu:,.0f} µs",
        "NOTIFY, CPU of PostgreSQL for each session that listens": f"{costs.wake_up_cpu:.0f} µs",
    }
    lines = [f"| {what} | {cost} |" for what, cost in rows.items()]
    return "\n".join(["| what | measured |", "|---|---|", *lines])


if __name__ == "__main__":
    measured = Costs.read()
    sys.stdout.write(f"{constants(measured)}\n\n{table(measured, Capacity(), WORKERS, RATES)}\n")
