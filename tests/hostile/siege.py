"""Slow connections together with runs: no run is lost, no heartbeat is late, no new client waits."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx

from coordinator.bootstrap import open_observer
from coordinator.settings import Settings
from tests.hostile.campaign import Target
from tests.hostile.crowd import crowd
from tests.hostile.measures import Lag, descriptors

NEW_CLIENT_WITHIN = 1.0  # s
TRIES = 2


@dataclass
class SiegeResult:
    new_clients: int = 0
    slowest: float = 0.0
    repeated: int = 0
    """Connections that were closed before they had an answer: the request was made once more."""
    runs: int = 0
    ends: dict[str, int] = field(default_factory=dict[str, int])
    most_descriptors: int = 0
    latest_beat: float = 0.0
    """Seconds: the longest time without a renewal of the lease."""
    lives: dict[str, tuple[int, float]] = field(default_factory=dict[str, tuple[int, float]])
    failures: list[str] = field(default_factory=list[str])

    def __str__(self) -> str:
        lines = [
            f"new clients: {self.new_clients}, the slowest answered after {self.slowest:.2f} s",
            f"runs: {self.runs} answered, by the store {self.ends}",
            f"heartbeats: at most {self.latest_beat:.1f} s between two; requests repeated: {self.repeated}",
            f"descriptors: at most {self.most_descriptors}",
            *(
                f"{count:7} closed, after {most:.1f} s at most: {kind}"
                for kind, (count, most) in self.lives.items()
            ),
            *self.failures[:20],
            f"{len(self.failures)} failures",
        ]
        return "\n".join(lines)


async def besiege(target: Target, *, seconds: float, size: int) -> SiegeResult:
    result, epochs = SiegeResult(), target.server.epochs
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    async with (
        Lag().measured() as lag,
        crowd(target.server.port, target.known.key, size) as slow,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(_new_clients(target, result, until, lag))
        group.create_task(_heartbeats(target, result, until))
        for _ in range(4):
            group.create_task(_runs(target, result, until))
    result.lives = {kind: (count, slow.longest[kind]) for kind, count in sorted(slow.closed.items())}
    result.failures += slow.failures
    result.ends = await _ends(target)
    result.failures += [
        f"{count} runs ended as {how}" for how, count in result.ends.items() if how != "success"
    ]
    if target.server.epochs != epochs:
        result.failures.append(f"workers: {epochs} became {target.server.epochs}")
    result.failures += [
        line for line in target.server.lines if "fenced" in line or "could not renew its lease" in line
    ]
    return result


async def _ends(target: Target) -> dict[str, int]:
    """Counts the runs of the store by final status."""
    async with open_observer(Settings(store=f"sqlite:///{target.folder / 'runs.db'}")) as seen:
        return dict(Counter(row.status.value for row in await seen.store.runs(limit=100_000)))


async def _new_clients(target: Target, result: SiegeResult, until: float, lag: Lag) -> None:
    """Sends requests, each on a new connection."""
    loop = asyncio.get_running_loop()
    while loop.time() < until:
        began = loop.time()
        answer = await _send(target, result, "GET", "/ok")
        took = loop.time() - began - lag.since(began)
        result.new_clients += 1
        result.slowest = max(result.slowest, took)
        result.most_descriptors = max(result.most_descriptors, descriptors(target.workers).total())
        if answer is None or answer.status_code != 200 or took > NEW_CLIENT_WITHIN:
            result.failures.append(f"a new client: {answer} after {took:.2f} s")
        await asyncio.sleep(0.5)  # the pace of the new clients


async def _send(
    target: Target, result: SiegeResult, method: str, path: str, body: Any = None
) -> httpx.Response | None:
    """Sends a request; retries once, as clients do, if the connection ends before the response."""
    for _ in range(TRIES):
        async with httpx.AsyncClient(
            base_url=target.server.url, headers={"x-api-key": target.known.key}, timeout=60
        ) as client:
            try:
                return await client.request(method, path, json=body)
            except httpx.TransportError:
                result.repeated += 1
    return None


async def _runs(target: Target, result: SiegeResult, until: float) -> None:
    """Starts runs and awaits them on one keep-alive connection."""
    run = {"assistant_id": "agent", "input": {"steps": 10, "sleep": 0.3}}
    loop = asyncio.get_running_loop()
    while loop.time() < until:
        ended = await _send(target, result, "POST", "/runs/wait", run)
        result.runs += 1
        if ended is None or ended.status_code != 200 or ended.json().get("done") != 10:
            result.failures.append(f"a run: {ended and ended.text[:200]}")


async def _heartbeats(target: Target, result: SiegeResult, until: float) -> None:
    """Measures the longest time (s) without a heartbeat in the store."""
    loop = asyncio.get_running_loop()
    store = Settings(store=f"sqlite:///{target.folder / 'runs.db'}")
    async with open_observer(store) as seen:
        last, at = None, loop.time()
        while loop.time() < until:
            (worker,) = await seen.store.workers()
            if worker.hb_seq != last:
                last, at = worker.hb_seq, loop.time()
            result.latest_beat = max(result.latest_beat, loop.time() - at)
            await asyncio.sleep(0.25)  # the pace of the samples
