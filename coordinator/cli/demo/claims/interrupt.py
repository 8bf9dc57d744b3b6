"""`interrupt` from another worker: the new run starts only after the old task has stopped."""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.cli.demo.claims.claim import Figures
from coordinator.cli.demo.figures import percentile, say_spread, seconds, spread
from coordinator.cli.demo.stage import Stage

ROUNDS = 5
UNWIND = 0.3
"""s; how long the old task takes to stop."""
LIMIT = 1.0
"""s; p95 of the time for which the thread is idle in between."""


@dataclass(frozen=True, slots=True)
class Replaced:
    """Moments in nanoseconds, by the worker that had the task."""

    old_told: int
    old_stopped: int
    new_started: int
    old_worker: str
    new_worker: str
    old_status: str
    new_status: str


@dataclass(frozen=True, slots=True)
class Evidence:
    rounds: tuple[Replaced, ...]

    @property
    def gaps(self) -> list[float]:
        return [seconds(one.old_stopped, one.new_started) for one in self.rounds]


async def measure(stage: Stage) -> Evidence:
    return Evidence(tuple([await _replace(stage) for _ in range(ROUNDS)]))


async def _replace(stage: Stage) -> Replaced:
    thread = stage.thread()
    old = (await stage.a.admit(thread, seconds=30, unwind=UNWIND))["run_id"]
    await stage.moments.of(old, "started")
    new = (await stage.b.admit(thread, "interrupt"))["run_id"]
    told = await stage.moments.of(old, "cancelled")
    started = await stage.moments.of(new, "started")
    stopped = await stage.moments.of(old, "stopped")
    return Replaced(
        told.at,
        stopped.at,
        started.at,
        stopped.worker,
        started.worker,
        (await stage.c.wait(old))["status"],
        (await stage.c.wait(new))["status"],
    )


def check(found: Evidence) -> list[str]:
    problems: list[str] = []
    if len(found.rounds) < ROUNDS:
        problems.append(f"only {len(found.rounds)} of {ROUNDS} rounds were played")
    for number, one in enumerate(found.rounds, start=1):
        if one.new_started < one.old_stopped:
            early = seconds(one.new_started, one.old_stopped)
            problems.append(f"round {number}: the new run started {early:.3f} s before the old task stopped")
        if seconds(one.old_told, one.old_stopped) < UNWIND:
            problems.append(f"round {number}: the old task did not take its time to stop")
        if one.old_worker == one.new_worker:
            problems.append(f"round {number}: both runs were on worker {one.new_worker}")
        if (one.old_status, one.new_status) != ("interrupted", "success"):
            problems.append(f"round {number}: the runs ended as {one.old_status} and {one.new_status}")
    if not percentile(found.gaps, 0.95) <= LIMIT:
        problems.append(f"the thread stood idle in between: {say_spread(found.gaps)}")
    return problems


def figures(found: Evidence) -> Figures:
    text = f"starts after the old task stopped by {say_spread(found.gaps)}"
    return Figures(text, {"unwind_s": UNWIND, "gap": spread(found.gaps)})
