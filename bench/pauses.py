"""A pause of Redis while runs stream: how many events never arrive at a follower on another worker."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from bench.report import Measure, at_most, median
from coordinator import Event, RunContext, RunManager, open_coordinator
from coordinator.servers.valkey import ValkeyServer

STREAMS, RATE, SECONDS = 20, 50, 5.0
PAUSES = (0.3, 1.0, 3.0)


async def run(rounds: int) -> list[Measure]:
    measures: list[Measure] = []
    for pause in PAUSES:
        lost = median([await _lost(pause) for _ in range(rounds)])
        what = f"{STREAMS} streams at {RATE}/s, pause of {pause:g} s: lost"
        measures.append(at_most(Measure("pauses", what, lost, "events"), 0))
    return measures


async def _lost(pause: float) -> float:
    with ValkeyServer() as server, tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'runs.db'}"
        async with (
            open_coordinator(url, redis=server.url) as owner,
            open_coordinator(url, redis=server.url) as other,
        ):
            return await _streams(owner, other, server, pause)


async def _streams(owner: RunManager, other: RunManager, server: ValkeyServer, pause: float) -> float:
    number = int(RATE * SECONDS)

    async def agent(ctx: RunContext) -> None:
        for count in range(number):
            await ctx.emit("custom", count)
            await asyncio.sleep(1 / RATE)

    async def followed(run_id: str) -> int:
        return len([item async for item in other.follow(run_id) if isinstance(item, Event)])

    records = [await owner.create_or_reject(f"t{count}") for count in range(STREAMS)]
    for record in records:
        owner.launch(record, agent)
    follows = [asyncio.create_task(followed(record.run_id)) for record in records]
    await asyncio.sleep(1.0)
    server.pause()
    await asyncio.sleep(pause)
    server.resume()
    return float(STREAMS * number - sum(await asyncio.gather(*follows)))
