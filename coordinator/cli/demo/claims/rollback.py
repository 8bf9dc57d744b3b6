"""`rollback` from another worker: the new run finds the thread as it was before the old one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from coordinator.cli.demo.claims.claim import Figures
from coordinator.cli.demo.figures import percentile, say_spread, seconds, spread
from coordinator.cli.demo.stage import Stage

ROUNDS = 5
LIMIT = 1.0
"""s; p95 of the whole exchange."""


@dataclass(frozen=True, slots=True)
class Restored:
    before: Any
    """The thread's values before the old run."""
    during: Any
    """What the old run had saved."""
    found: Any
    """What the new run was handed."""
    after: Any
    """As a third worker reads them when all is over."""
    took: float
    old_worker: str
    new_worker: str


@dataclass(frozen=True, slots=True)
class Evidence:
    rounds: tuple[Restored, ...]


async def measure(stage: Stage) -> Evidence:
    return Evidence(tuple([await _roll_back(stage, number) for number in range(ROUNDS)]))


async def _roll_back(stage: Stage, number: int) -> Restored:
    thread = stage.thread()
    first = (await stage.a.admit(thread, save={"messages": ["hello"], "n": number}))["run_id"]
    await stage.a.wait(first)
    before = (await stage.c.ask("thread", thread=thread))["values"]
    spoilt = {"messages": ["hello", "half an answer"], "n": -1}
    old = (await stage.a.admit(thread, save=spoilt, seconds=30))["run_id"]
    await stage.moments.of(old, "saved")
    during = (await stage.c.ask("thread", thread=thread))["values"]
    new = await stage.b.admit(thread, "rollback")
    started = await stage.moments.of(new["run_id"], "started")
    stopped = await stage.moments.of(old, "stopped")
    await stage.c.wait(new["run_id"])
    after = (await stage.c.ask("thread", thread=thread))["values"]
    took = seconds(new["called"], started.at)
    return Restored(before, during, started.about["values"], after, took, stopped.worker, started.worker)


def check(found: Evidence) -> list[str]:
    problems: list[str] = []
    if len(found.rounds) < ROUNDS:
        problems.append(f"only {len(found.rounds)} of {ROUNDS} rounds were played")
    for number, one in enumerate(found.rounds, start=1):
        if one.before is None or one.during == one.before:
            problems.append(f"round {number}: the old run changed nothing, so there was nothing to undo")
        if one.found != one.before:
            problems.append(f"round {number}: the new run was handed {one.found!r}, not {one.before!r}")
        if one.after != one.before:
            problems.append(f"round {number}: the thread holds {one.after!r}, not {one.before!r}")
        if one.old_worker == one.new_worker:
            problems.append(f"round {number}: both runs were on worker {one.new_worker}")
    took = [one.took for one in found.rounds]
    if not percentile(took, 0.95) <= LIMIT:
        problems.append(f"it took too long: {say_spread(took)}")
    return problems


def figures(found: Evidence) -> Figures:
    took = [one.took for one in found.rounds]
    text = f"values restored {len(took)} times; asked to started {say_spread(took)}"
    return Figures(text, {"rounds": len(took), "asked_to_started": spread(took)})
