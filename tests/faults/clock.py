"""Faults of the clock."""

from __future__ import annotations

import asyncio
import time

from tests.faults.fault import Fault
from tests.faults.stage import Stage


class ClockJump(Fault):
    """The wall clock of one worker, or of all, is an hour ahead or behind for two seconds."""

    expects = "no worker is declared dead, no lease ends, cancels are as fast as ever, no run is touched"
    lasts = 4.0

    def __init__(self, seconds: int, *, all_workers: bool) -> None:
        self._seconds, self._all_workers = seconds, all_workers
        self.name = f"clock jump {seconds:+d} s ({'all workers' if all_workers else 'one worker'})"

    async def strike(self, stage: Stage) -> None:
        before = await stage.living()
        stage.test.fault("clock", seconds=self._seconds)
        struck = stage.slots if self._all_workers else [stage.rng.choice(stage.slots)]
        for slot in struck:
            await slot.live.do("jump", seconds=self._seconds)
        until = time.monotonic() + 2 * stage.knobs.sweep
        while time.monotonic() < until:
            _, took = await stage.probe()
            stage.book.measure("clock jump: cancel delivered", took, 1.5)
            await asyncio.sleep(0.3)  # the pace of the probes
        for slot in struck:
            await slot.live.do("jump", seconds=0)
        stage.test.fault("clock", seconds=0)
        if await stage.living() != before:
            stage.violation(f"a worker was declared dead or registered anew: {self.name}")
