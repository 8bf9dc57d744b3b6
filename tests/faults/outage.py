"""Outages of the store, with any engine."""

from __future__ import annotations

import asyncio
import os
import time
from abc import abstractmethod
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import ClassVar

from tests.faults.fault import Fault
from tests.faults.stage import PATIENCE, Stage


class Outage(Fault):
    """Shorter than a lease lasts."""

    expects = "nothing acknowledged is lost, no worker is declared dead, a run passes within 1 s of its end"
    over: ClassVar[str]
    """Names the measure: the time from the end until a run that is admitted after it has finished."""
    bound: ClassVar[float] = 1.0

    async def strike(self, stage: Stage) -> None:
        before = await stage.living()
        stage.test.fault("store_down", fault=self.name)
        async with self.lasting(stage):
            pass
        since = time.monotonic()
        stage.test.fault("store_up", fault=self.name)
        await passes(stage, since, f"{self.over}: a run passes", self.bound)
        if await stage.living() != before:
            stage.violation(f"a worker was declared dead or registered anew: {self.name}")

    @abstractmethod
    def lasting(self, stage: Stage) -> AbstractAsyncContextManager[None]:
        """Begins, lasts, and is over at the end of the block."""


async def passes(stage: Stage, since: float, what: str, bound: float | None) -> None:
    stage.probes += 1
    slot = stage.rng.choice(stage.slots)
    until, last = since + PATIENCE, Exception()
    while time.monotonic() < until:
        try:
            await slot.live.do("round_trip", thread=f"round-{stage.leg}-{stage.probes}")
        except Exception as error:  # noqa: BLE001 - retried after any error, until the time is over
            last = error
            stage.probes += 1
            await asyncio.sleep(0.02)
        else:
            stage.book.measure(what, time.monotonic() - since, bound)
            return
    stage.violation(f"{what}: not within {PATIENCE} s: {last!r}")


class Full(Outage):
    """A file fills the small file system that the store is on."""

    name = "disk full"
    expects = "errors, no false answers while it is full; a run passes within 1 s of its end; data stay sound"
    over = "disk with space again"
    lasts = 4.0

    @asynccontextmanager
    async def lasting(self, stage: Stage) -> AsyncGenerator[None]:
        ballast = stage.disk / "ballast"
        with ballast.open("wb", buffering=0) as file:
            for size in (1 << 16, 1 << 10):
                await asyncio.to_thread(_fill, file.fileno(), size)
        refused_before = self._refused(stage)
        await asyncio.sleep(2.0)  # how long the fault lasts
        stage.book.counts["calls that met a full disk"] += self._refused(stage) - refused_before
        ballast.unlink()
        yield

    def _refused(self, stage: Stage) -> int:
        return sum(
            text.count(b'"StoreUnavailable"') + text.count(b'"StoreFull"')
            for path in stage.folder.glob(f"{stage.leg}-*.jsonl")
            for text in (path.read_bytes(),)
        )


def _fill(fd: int, size: int) -> None:
    try:
        while os.write(fd, b"x" * size):
            pass
    except OSError:
        return
