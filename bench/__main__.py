"""`python -m bench [NAME ...] [--json FILE] [--rounds N]`: run all benchmarks, or those named."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from bench import (
    cancel,
    costs,
    deaths,
    events,
    failover,
    gateway,
    gateway_start,
    graphs,
    growth,
    guards,
    history,
    http_floors,
    idle,
    lines,
    old_transaction,
    pauses,
    peers,
    postgres,
    postgres_cost,
    postgres_fleet,
    postgres_rates,
    redis_commands,
    requests,
    routes,
    shares,
    sockets,
    startup,
    streams,
    throughput,
)
from bench.report import Measure, document, load, machine, table

Bench = Callable[[int], Coroutine[Any, Any, list[Measure]]]
BENCHES: dict[str, Bench] = {
    "throughput": throughput.run,
    "cancel": cancel.run,
    "growth": growth.run,
    "idle": idle.run,
    "startup": startup.run,
    "events": events.run,
    "gateway": gateway.run,
    "gateway_start": gateway_start.run,
    "graphs": graphs.run,
    "guards": guards.run,
    "shares": shares.run,
    "sockets": sockets.run,
    "postgres": postgres.run,
    "history": history.run,
    "pauses": pauses.run,
    "lines": lines.run,
    "deaths": deaths.run,
    "failover": failover.run,
    "postgres_rates": postgres_rates.run,
    "postgres_fleet": postgres_fleet.run,
    "requests": requests.run,
    "http": http_floors.run,
    "postgres_cost": postgres_cost.run,
    "redis": redis_commands.run,
    "costs": costs.run,
    "old_transaction": old_transaction.run,
    "streams": streams.run,
    "routes": routes.run,
    "peers": peers.run,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHES)} (all)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of which the median is shown (5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measurements there too")
    options = parser.parse_args()
    if unknown := set(options.names) - BENCHES.keys():
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(BENCHES)}")
    print(", ".join(f"{name} {value}" for name, value in machine().items()), flush=True)
    measures: list[Measure] = []
    for name in options.names or BENCHES:
        print(f"running {name} …", file=sys.stderr, flush=True)
        measures += asyncio.run(BENCHES[name](options.rounds))
    print(table(measures))
    if options.json is not None:
        options.json.write_text(document(measures), encoding="utf-8")
    missed = [measure for measure in measures if measure.holds is False]
    print(f"{len(measures)} measurements, {len(missed)} missed their target; load at the end {load()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
