"""A worker is killed: its runs are ended, its threads are free, the runs of the others go on."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from coordinator.cli.demo.claims.claim import Figures
from coordinator.cli.demo.figures import seconds
from coordinator.cli.demo.process import Refused
from coordinator.cli.demo.stage import Stage
from coordinator.cli.text import span

EACH = 3
LIMIT = 8.0
"""s; one sweep (5 s and its jitter), and room for a busy machine."""


@dataclass(frozen=True, slots=True)
class Evidence:
    ended: tuple[str, ...]
    """What the runs of the dead worker came to."""
    causes: tuple[str | None, ...]
    took: float
    """Seconds from the kill until the last of them was seen to have ended."""
    freed: tuple[str, ...]
    """What came of a new run on each of their threads: "ok", or what went wrong."""
    before: tuple[dict[str, Any], ...]
    """Rows of the others' runs before the kill..."""
    after: tuple[dict[str, Any], ...]
    """...and when all was over."""


async def measure(stage: Stage) -> Evidence:
    threads = [stage.thread() for _ in range(EACH)]
    dying = [(await stage.c.admit(thread, seconds=60))["run_id"] for thread in threads]
    others = [
        (await worker.admit(stage.thread(), seconds=60))["run_id"]
        for worker in (stage.a, stage.b)
        for _ in range(EACH)
    ]
    for run_id in dying + others:
        await stage.moments.of(run_id, "started")
    before = [await stage.a.ask("run", run_id=run_id) for run_id in others]
    killed = time.monotonic_ns()
    stage.c.kill()
    ends = await asyncio.gather(*(stage.a.wait(run_id) for run_id in dying))
    took = max(seconds(killed, end["at"]) for end in ends)
    freed = [await _try(stage, thread) for thread in threads]
    after = [await stage.a.ask("run", run_id=run_id) for run_id in others]
    for run_id in others:
        await stage.a.cancel(run_id)
    return Evidence(
        tuple(end["status"] for end in ends),
        tuple(end["cause"] for end in ends),
        took,
        tuple(freed),
        tuple(before),
        tuple(after),
    )


async def _try(stage: Stage, thread: str) -> str:
    try:
        run_id = (await stage.b.admit(thread, "reject"))["run_id"]
    except Refused as error:
        return str(error)
    status = (await stage.b.wait(run_id))["status"]
    return "ok" if status == "success" else f"the new run ended as {status}"


def check(found: Evidence) -> list[str]:
    problems: list[str] = []
    if len(found.ended) < EACH or any(status != "error" for status in found.ended):
        problems.append(f"the runs of the dead worker came to {', '.join(found.ended) or 'nothing'}")
    if any(cause != "orphaned" for cause in found.causes):
        problems.append("they do not say that their worker is gone")
    if not found.took <= LIMIT:
        problems.append(f"it took {span(found.took)} until they were ended")
    if len(found.freed) < EACH or any(came_to != "ok" for came_to in found.freed):
        problems.append(f"their threads: {', '.join(found.freed) or 'not tried'}")
    if len(found.before) < 2 * EACH or found.after != found.before:
        problems.append("runs of other workers were touched")
    elif any(row["status"] != "running" for row in found.after):
        problems.append("runs of other workers do not run any more")
    return problems


def figures(found: Evidence) -> Figures:
    text = (
        f"{len(found.ended)} runs ended and threads free {span(found.took)} after the kill;"
        f" {len(found.after)} others run on"
    )
    measured = {"ended": len(found.ended), "ended_within_s": found.took, "untouched": len(found.after)}
    return Figures(text, measured)
