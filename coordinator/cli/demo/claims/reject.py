"""`reject` from three workers at the same moment: exactly one wins."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from coordinator.cli.demo.claims.claim import Figures
from coordinator.cli.demo.figures import percentile, say_spread, seconds, spread
from coordinator.cli.demo.process import Refused, WorkerProcess
from coordinator.cli.demo.stage import Stage

ROUNDS = 20
_AHEAD = 20_000_000  # ns; the time that three workers get to hear at which moment to ask
TOGETHER = 0.05
"""s; p50 of the time between the first and the last to ask, or nothing was contended."""


@dataclass(frozen=True, slots=True)
class Asked:
    """`won`: the id of its run; else it was refused with `kind`, which named the run `active`.
    `called`: when it asked, in nanoseconds."""

    worker: str
    called: int
    won: str | None
    kind: str | None = None
    active: str | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    rounds: tuple[tuple[Asked, ...], ...]

    @property
    def apart(self) -> list[float]:
        """Seconds between the first and the last to ask, round by round."""
        return [
            seconds(min(one.called for one in asked), max(one.called for one in asked))
            for asked in self.rounds
        ]


async def measure(stage: Stage) -> Evidence:
    rounds: list[tuple[Asked, ...]] = []
    for _ in range(ROUNDS):
        thread, at = stage.thread(), time.monotonic_ns() + _AHEAD
        asked = await asyncio.gather(*(_ask(worker, thread, at) for worker in stage.workers.values()))
        rounds.append(tuple(asked))
        for winner in asked:
            if winner.won is not None:
                await stage.workers[winner.worker].cancel(winner.won)
    return Evidence(tuple(rounds))


async def _ask(worker: WorkerProcess, thread: str, at: int) -> Asked:
    try:
        answer = await worker.admit(thread, at=at, seconds=30)
    except Refused as error:
        return Asked(worker.name, error.called or 0, None, error.kind, error.active_run_id)
    return Asked(worker.name, answer["called"], answer["run_id"])


def check(found: Evidence) -> list[str]:
    problems: list[str] = []
    if len(found.rounds) < ROUNDS:
        problems.append(f"only {len(found.rounds)} of {ROUNDS} rounds were played")
    for number, asked in enumerate(found.rounds, start=1):
        winners = [one for one in asked if one.won is not None]
        if len(winners) != 1:
            problems.append(f"round {number}: {len(winners)} of {len(asked)} workers won")
            continue
        problems += [
            f"round {number}: worker {loser.worker} was refused with {loser.kind}, which named {loser.active}"
            for loser in asked
            if loser.won is None and (loser.kind, loser.active) != ("ConflictError", winners[0].won)
        ]
    if not percentile(found.apart, 0.5) <= TOGETHER:
        problems.append(f"the workers did not ask at the same moment: {say_spread(found.apart)} apart")
    return problems


def figures(found: Evidence) -> Figures:
    wins = dict.fromkeys("ABC", 0)
    for asked in found.rounds:
        for one in asked:
            wins[one.worker] += one.won is not None
    spoken = ", ".join(f"{name} {count}" for name, count in wins.items())
    text = f"{len(found.rounds)} rounds, wins: {spoken}; asked {say_spread(found.apart)} apart"
    return Figures(text, {"rounds": len(found.rounds), "wins": wins, "asked_apart": spread(found.apart)})
