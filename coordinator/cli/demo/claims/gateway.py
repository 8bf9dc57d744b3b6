"""The client that others wrote for the Runs API drives a gateway of three workers, and stops its runs."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from coordinator.cli.demo.claims.claim import Figures
from coordinator.cli.demo.figures import percentile, say_spread, spread
from coordinator.cli.demo.gateway import serving
from coordinator.cli.demo.stage import Stage
from coordinator.cli.text import span

WORKERS = 3
CANCELS = 20
STEPS = 5
LIMIT = 0.5
"""s; p95 of a cancel with its answer over HTTP. Far below every tick of the worker that runs the run."""
GONE_WITHIN = 5.0
"""s; without a grace."""


@dataclass(frozen=True, slots=True)
class Evidence:
    workers: int
    told: tuple[int, ...]
    """The steps that a stream told of."""
    joined: tuple[str, ...]
    """The log of the same run, to whoever joined it."""
    cancels: tuple[float, ...]
    """Seconds from the call on one connection to the answer that a run made on another has stopped."""
    statuses: tuple[str, ...]
    epochs: frozenset[int]
    """Of the workers that ran the cancelled runs."""
    left: float
    status: int | None


async def measure(stage: Stage) -> Evidence:
    from langgraph_sdk import get_client

    async with serving(stage, WORKERS) as gateway:
        one: Any = get_client(url=gateway.url, api_key=None)
        other: Any = get_client(url=gateway.url, api_key=None)
        async with one, other:
            told, joined = await _stream_and_join(one, other)
            # At once: each over a connection of its own, which may end at any of the workers.
            runs = await asyncio.gather(*(_begin(one) for _ in range(CANCELS)))
            cancelled = [await _cancel(other, thread, run) for thread, run in runs]
            workers = await other.http.get("/coordinator/workers")
    return Evidence(
        workers=len(workers),
        told=tuple(told),
        joined=tuple(joined),
        cancels=tuple(took for took, _, _ in cancelled),
        statuses=tuple(status for _, status, _ in cancelled),
        epochs=frozenset(epoch for _, _, epoch in cancelled),
        left=gateway.left,
        status=gateway.status,
    )


async def _stream_and_join(one: Any, other: Any) -> tuple[list[int], list[str]]:
    thread = (await one.threads.create())["thread_id"]
    run: dict[str, str] = {}
    told: list[int] = []
    async for part in one.runs.stream(thread, "agent", input={"steps": STEPS, "sleep": 0.01}):
        if part.event == "metadata":
            run = part.data
        elif part.event == "values":
            told.append(part.data["done"])
    return told, (await other.runs.join(thread, run["run_id"]))["log"]


async def _begin(client: Any) -> tuple[str, str]:
    thread = (await client.threads.create())["thread_id"]
    run = await client.runs.create(thread, "agent", input={"steps": 1, "sleep": 60})
    return thread, run["run_id"]


async def _cancel(client: Any, thread: str, run: str) -> tuple[float, str, int]:
    began = time.monotonic()
    await client.runs.cancel(thread, run, wait=True)
    took = time.monotonic() - began
    status = (await client.runs.get(thread, run))["status"]
    explained = await client.http.get(f"/coordinator/runs/{run}/explain")
    return took, status, next(step["epoch"] for step in explained["timeline"] if step["what"] == "started")


def check(found: Evidence) -> list[str]:
    problems: list[str] = []
    if found.workers != WORKERS:
        problems.append(f"{found.workers} workers instead of {WORKERS}")
    if found.told != tuple(range(1, STEPS + 1)):
        problems.append(f"the stream told of the steps {found.told}")
    if len(found.joined) != STEPS:
        problems.append(f"who joined the run was told of {len(found.joined)} of {STEPS} steps")
    others = [status for status in found.statuses if status != "interrupted"]
    if others or len(found.statuses) < CANCELS:
        problems.append(f"cancelled runs ended otherwise: {others or 'unknown'}")
    if not percentile(found.cancels, 0.95) <= LIMIT:
        problems.append(f"p95 is above {LIMIT} s: {say_spread(found.cancels)}")
    if len(found.epochs) < 2:
        problems.append("one worker ran all runs")
    if found.status != 0 or found.left > GONE_WITHIN:
        problems.append(f"it ended with {found.status} after {span(found.left)}")
    return problems


def figures(found: Evidence) -> Figures:
    text = f"{len(found.cancels)} cancels over HTTP: {say_spread(found.cancels)}"
    return Figures(text, {"cancel": spread(found.cancels), "left_s": found.left})
