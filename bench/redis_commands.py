"""Redis commands a run, by INFO commandstats: as the gateway executes them, one at a time and 50 at once.

Includes whatever the worker sends meanwhile; bench/idle.py has the commands of an idle worker.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from bench.bare import connect
from bench.databases import scaled
from bench.report import Measure
from bench.throughput import ASSISTANTS, by_gateway, lives
from coordinator import open_coordinator
from coordinator.servers.valkey import ValkeyServer

_BENCH = "redis"


async def run(rounds: int) -> list[Measure]:
    del rounds  # it counts, it does not time
    with ValkeyServer() as server:
        return [
            await _commands(server.url, at_once, runs)
            for at_once, runs in ((1, scaled(300, 50)), (50, scaled(3000, 200)))
        ]


async def _commands(redis: str, at_once: int, runs: int) -> Measure:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'runs.db'}"
        async with (
            open_coordinator(url, redis=redis, assistants=ASSISTANTS) as manager,
            connect(redis) as client,
        ):
            await lives(manager, by_gateway, at_once, max(runs // 10, 20))
            before = await command_calls(client)
            await lives(manager, by_gateway, at_once, runs)
            after = await command_calls(client)
    a_run = {name: (calls - before.get(name, 0)) / runs for name, calls in after.items()}
    parts = sorted(((calls, name) for name, calls in a_run.items() if calls >= 0.01), reverse=True)
    note = ", ".join(f"{name} {calls:.2f}" for calls, name in parts)
    return Measure(_BENCH, f"commands a run, {at_once} at once", sum(a_run.values()), "", note=note)


async def command_calls(client: Any) -> dict[str, int]:
    """How often the server has executed each command; those inside of scripts are included, INFO is not."""
    stats: dict[str, dict[str, int]] = await client.info("commandstats")
    calls = {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in stats.items()}
    calls.pop("info", None)
    return calls
