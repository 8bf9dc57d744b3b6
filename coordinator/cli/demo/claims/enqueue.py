"""`enqueue` over three workers: first in, first out, one at a time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from coordinator.cli.demo.claims.claim import Figures
from coordinator.cli.demo.figures import percentile, say_spread, seconds, spread
from coordinator.cli.demo.stage import Stage

RUNS = 12
LASTS = 0.02
"""s; each of them."""
LIMIT = 0.5
"""s; p95 of the time for which the thread is idle between two of them."""


@dataclass(frozen=True, slots=True)
class Turn:
    """Moments in nanoseconds."""

    run_id: str
    worker: str
    started: int
    stopped: int


@dataclass(frozen=True, slots=True)
class Evidence:
    admitted: tuple[str, ...]
    """Run ids in the order in which they were admitted."""
    turns: tuple[Turn, ...]
    """In the order in which they started."""

    @property
    def gaps(self) -> list[float]:
        return [
            seconds(one.stopped, other.started)
            for one, other in zip(self.turns, self.turns[1:], strict=False)
        ]


async def measure(stage: Stage) -> Evidence:
    thread = stage.thread()
    first = (await stage.a.admit(thread, "enqueue", seconds=0.3))["run_id"]
    await stage.moments.of(first, "started")
    names = list(stage.workers.values())
    admitted = [first]
    for number in range(RUNS):
        worker = names[number % len(names)]
        admitted.append((await worker.admit(thread, "enqueue", seconds=LASTS))["run_id"])
    await asyncio.gather(*(stage.c.wait(run_id) for run_id in admitted))
    turns = [await _turn(stage, run_id) for run_id in admitted]
    return Evidence(tuple(admitted), tuple(sorted(turns, key=lambda turn: turn.started)))


async def _turn(stage: Stage, run_id: str) -> Turn:
    started = await stage.moments.of(run_id, "started")
    stopped = await stage.moments.of(run_id, "stopped")
    return Turn(run_id, started.worker, started.at, stopped.at)


def check(found: Evidence) -> list[str]:
    problems: list[str] = []
    order = tuple(turn.run_id for turn in found.turns)
    if len(found.admitted) != RUNS + 1:
        problems.append(f"only {len(found.admitted)} of {RUNS + 1} runs were admitted")
    if order != found.admitted:
        problems.append("they did not run in the order in which they were admitted")
    if any(gap < 0 for gap in found.gaps):
        problems.append("two of them ran at the same time")
    if len({turn.worker for turn in found.turns}) < 3:
        problems.append("they were not on three workers")
    if not percentile(found.gaps, 0.95) <= LIMIT:
        problems.append(f"the thread stood idle in between: {say_spread(found.gaps)}")
    return problems


def figures(found: Evidence) -> Figures:
    text = f"{len(found.turns)} runs in order; from one to the next {say_spread(found.gaps)}"
    return Figures(text, {"runs": len(found.turns), "handover": spread(found.gaps)})
