"""A run on worker A is cancelled from worker B, as fast as a signal travels."""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.cli.demo.claims.claim import Figures
from coordinator.cli.demo.figures import percentile, say_spread, seconds, spread
from coordinator.cli.demo.stage import Stage

CANCELS = 60
LIMIT = 0.25
"""s; p95. Far below every tick, so that what is met was brought by a signal."""


@dataclass(frozen=True, slots=True)
class Evidence:
    delivered: tuple[float, ...]
    """Seconds from the cancel call on B to the CancelledError in A's task."""
    freed: tuple[float, ...]
    """Seconds from the cancel call on B to its answer that the thread is free."""
    statuses: tuple[str, ...]


async def measure(stage: Stage) -> Evidence:
    delivered: list[float] = []
    freed: list[float] = []
    statuses: list[str] = []
    for _ in range(CANCELS):
        run_id = (await stage.a.admit(stage.thread(), seconds=30))["run_id"]
        await stage.moments.of(run_id, "started")
        answer = await stage.b.cancel(run_id)
        told = await stage.moments.of(run_id, "cancelled")
        delivered.append(seconds(answer["called"], told.at))
        freed.append(seconds(answer["called"], answer["answered"]))
        statuses.append((await stage.c.ask("run", run_id=run_id))["status"])
    return Evidence(tuple(delivered), tuple(freed), tuple(statuses))


def check(found: Evidence) -> list[str]:
    problems: list[str] = []
    if len(found.delivered) < CANCELS:
        problems.append(f"only {len(found.delivered)} of {CANCELS} cancels were delivered")
    if not percentile(found.delivered, 0.95) <= LIMIT:
        problems.append(f"p95 is above {LIMIT} s: {say_spread(found.delivered)}")
    others = [status for status in found.statuses if status != "interrupted"]
    if others or len(found.statuses) < len(found.delivered):
        problems.append(f"cancelled runs ended otherwise: {others or 'unknown'}")
    if any(late < early for early, late in zip(found.delivered, found.freed, strict=False)):
        problems.append("a thread was called free before its task had been told")
    return problems


def figures(found: Evidence) -> Figures:
    text = f"{len(found.delivered)} cancels: {say_spread(found.delivered)}"
    return Figures(text, {"delivered": spread(found.delivered), "freed": spread(found.freed)})
