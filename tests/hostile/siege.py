"""Slow connections beside runs: is a run lost, is the heartbeat late, does a new client wait?"""

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
class Found:
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


async def besiege(target: Target, *, seconds: float, size: int) -> Found:
    found, epochs = Found(), target.server.epochs
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    async with (
        Lag().measured() as lag,
        crowd(target.server.port, target.known.key, size) as slow,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(_new_clients(target, found, until, lag))
        group.create_task(_heartbeats(target, found, until))
        for _ in range(4):
            group.create_task(_runs(target, found, until))
    found.lives = {kind: (count, slow.longest[kind]) for kind, count in sorted(slow.closed.items())}
    found.failures += slow.failures
    found.ends = await _ends(target)
    found.failures += [
        f"{count} runs ended as {how}" for how, count in found.ends.items() if how != "success"
    ]
    if target.server.epochs != epochs:
        found.failures.append(f"workers: {epochs} became {target.server.epochs}")
    found.failures += [
        line for line in target.server.lines if "fenced" in line or "could not be renewed" in line
    ]
    return found


async def _ends(target: Target) -> dict[str, int]:
    """How all runs of the store ended."""
    async with open_observer(Settings(store=f"sqlite:///{target.folder / 'runs.db'}")) as seen:
        return dict(Counter(row.status.value for row in await seen.store.runs(limit=100_000)))


async def _new_clients(target: Target, found: Found, until: float, lag: Lag) -> None:
    """Each on a connection of its own."""
    loop = asyncio.get_running_loop()
    while loop.time() < until:
        began = loop.time()
        answer = await _ask(target, found, "GET", "/ok")
        took = loop.time() - began - lag.since(began)
        found.new_clients += 1
        found.slowest = max(found.slowest, took)
        found.most_descriptors = max(found.most_descriptors, descriptors(target.workers).total())
        if answer is None or answer.status_code != 200 or took > NEW_CLIENT_WITHIN:
            found.failures.append(f"a new client: {answer} after {took:.2f} s")
        await asyncio.sleep(0.5)


async def _ask(
    target: Target, found: Found, method: str, path: str, body: Any = None
) -> httpx.Response | None:
    """As clients do: once more where the connection ended before there was an answer."""
    for _ in range(TRIES):
        async with httpx.AsyncClient(
            base_url=target.server.url, headers={"x-api-key": target.known.key}, timeout=60
        ) as client:
            try:
                return await client.request(method, path, json=body)
            except httpx.TransportError:
                found.repeated += 1
    return None


async def _runs(target: Target, found: Found, until: float) -> None:
    """Each is waited for on a connection that stays."""
    run = {"assistant_id": "agent", "input": {"steps": 10, "sleep": 0.3}}
    loop = asyncio.get_running_loop()
    while loop.time() < until:
        ended = await _ask(target, found, "POST", "/runs/wait", run)
        found.runs += 1
        if ended is None or ended.status_code != 200 or ended.json().get("done") != 10:
            found.failures.append(f"a run: {ended and ended.text[:200]}")


async def _heartbeats(target: Target, found: Found, until: float) -> None:
    """As the store has them."""
    loop = asyncio.get_running_loop()
    store = Settings(store=f"sqlite:///{target.folder / 'runs.db'}")
    async with open_observer(store) as seen:
        last, at = None, loop.time()
        while loop.time() < until:
            (worker,) = await seen.store.workers()
            if worker.hb_seq != last:
                last, at = worker.hb_seq, loop.time()
            found.latest_beat = max(found.latest_beat, loop.time() - at)
            await asyncio.sleep(0.25)
