"""Cancels of a graph's async node on another process, with Redis, and of a plain function in turn with them.

From the call on one worker to CancelledError in the node, or in the function, on the other.
"""

from __future__ import annotations

import random

from bench.cancel import cancel_elsewhere, worker_pair
from bench.databases import scaled
from bench.report import Measure, at_most, median, quantile
from bench.worker import QUIET
from coordinator.servers.valkey import ValkeyServer

CANCELS = scaled(150, 20)
LONGEST_PAUSE = 0.1  # s


async def measured(rounds: int) -> list[Measure]:
    ms: dict[str, list[float]] = {"graph": [], "function": []}
    with ValkeyServer() as server:
        for _ in range(rounds):
            async with (
                worker_pair(server.url, saturating=0, program="bench.graph_worker") as graphs,
                worker_pair(server.url, saturating=0) as functions,
            ):
                for number in range(CANCELS):
                    for kind, (owner, other) in (("graph", graphs), ("function", functions)):
                        pause = QUIET + random.random() * LONGEST_PAUSE
                        ms[kind].append(await cancel_elsewhere(owner, other, number, pause=pause))
    graph, function = sorted(ms["graph"]), sorted(ms["function"])
    beside = f"{median(graph) / median(function):.2f} x that of a function"
    what = "cancel of a node on another worker, Redis"
    late = f"of a function {quantile(function, 0.99):.1f} ms"
    return [
        at_most(Measure("graphs", f"{what}, median", median(graph), "ms", note=beside), 5),
        Measure("graphs", f"{what}, p99", quantile(graph, 0.99), "ms", note=late),
    ]
