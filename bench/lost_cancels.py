"""How many cancels are lost in what users write: `python -m bench.lost_cancels` (COUNT of each, 3,000).

A cancel is lost when the run had to be settled by force, or when its code continues after `cancel(wait=)` has
returned. `make agents` measures it on every Python that is there.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from typing import Any, NamedTuple

from coordinator import RunManager, open_coordinator
from tests.support.kit import UserAgent

CLEAN_UP = 0.6  # s
FORCE_AFTER = 10.0  # s; the default
SPREAD = 0.3  # s; within which the cancels of a batch are spread, after its agents are ready
KINDS = {
    "polls_1_ms": 50,
    "polls_20_ms": 100,
    "polls_what_comes": 50,
    "after_a_failed_child": 300,
    "after_a_timeout": 300,
    "while_a_group_aborts": 300,
    "shielded_clean_up": 300,
}
"""How many of each kind run at once: those that poll keep a core busy."""


class Lost(NamedTuple):
    kind: str
    runs: int
    forced: int
    going_on: int
    slowest: float
    """Seconds from a cancel to its answer."""

    def line(self) -> str:
        counts = f"{self.forced + self.going_on} of {self.runs} lost"
        return f"{self.kind:22} {counts:20} forced {self.forced}, slowest {self.slowest:.2f} s"


async def _one(manager: RunManager, number: int, kind: str) -> tuple[bool, float]:
    """Does its code go on, and how long did the cancel take?"""
    run, agent = await manager.create_or_reject(f"{kind}-{number}"), UserAgent(kind, clean_up=CLEAN_UP)
    task = manager.launch(run, agent)
    await agent.body.ready.wait()
    await asyncio.sleep(random.uniform(0, SPREAD))
    began = time.monotonic()
    await manager.cancel(run.run_id, wait=FORCE_AFTER * 3)
    took, goes_on = time.monotonic() - began, not task.done()
    while not task.done():  # swallowed for good: end it somehow
        task.cancel()
        await asyncio.sleep(0.01)
    return goes_on, took


async def measure(kind: str, count: int) -> Lost:
    async with open_coordinator("memory://", force_after=FORCE_AFTER, grace=0, lease_ttl=300) as manager:
        results: list[tuple[bool, float]] = []
        while len(results) < count:
            numbers = range(len(results), min(count, len(results) + KINDS[kind]))
            results += await asyncio.gather(*(_one(manager, number, kind) for number in numbers))
        going_on = sum(goes_on for goes_on, _ in results)
        going_on -= min(going_on, manager.worker.forced)  # those that were forced do so as well
        return Lost(kind, count, manager.worker.forced, going_on, max(took for _, took in results))


async def measure_all(count: int) -> list[Lost]:
    results: list[Lost] = []
    for kind in KINDS:
        results.append(await measure(kind, count))
        sys.stdout.write(f"{results[-1].line()}\n")
        sys.stdout.flush()
    return results


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.lost_cancels", description=__doc__)
    parser.add_argument("--count", type=int, default=3000)
    version = ".".join(map(str, sys.version_info[:3]))
    sys.stdout.write(f"Python {version}\n")
    arguments: Any = parser.parse_args()
    results = asyncio.run(measure_all(arguments.count))
    return 1 if any(lost.forced or lost.going_on for lost in results) else 0


if __name__ == "__main__":
    sys.exit(main())
