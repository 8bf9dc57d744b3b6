"""Faults of the store's file."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from tests.faults.fault import Fault
from tests.faults.outage import Outage, passes
from tests.faults.sqlite import SQLite
from tests.faults.stage import PATIENCE, Slot, Stage


class Lock(Outage):
    """Another program holds the file's write lock."""

    name = "store file locked for 5 s"
    over = "store file unlocked"
    lasts = 7.0

    @asynccontextmanager
    async def lasting(self, stage: Stage) -> AsyncGenerator[None]:
        assert isinstance(stage.engine, SQLite)
        cx = await asyncio.to_thread(_locked, str(stage.engine.database))
        try:
            await asyncio.sleep(5.0)  # how long the fault lasts
        finally:
            cx.rollback()
            cx.close()
        yield


def _locked(database: str) -> sqlite3.Connection:
    cx = sqlite3.connect(database, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
    cx.execute("BEGIN IMMEDIATE")
    return cx


class GateCopied(Fault):
    """A worker's own process reads the gate file and closes it, as a backup does."""

    name = "gate file copied by a worker"
    expects = "nothing happens: no worker is declared dead, runs continue"
    lasts = 2.0

    async def strike(self, stage: Stage) -> None:
        assert isinstance(stage.engine, SQLite)
        before = await stage.living()
        gate, copy = f"{stage.engine.database}-gate", stage.folder / "copy"
        await stage.rng.choice(stage.slots).live.do("copy", path=gate, to=str(copy))
        since = time.monotonic()
        await asyncio.sleep(3 * stage.knobs.sweep)  # three sweeps declare no worker dead
        if await stage.living() != before:
            stage.violation(f"a worker was declared dead or registered anew: {self.name}")
        await passes(stage, since, f"{self.name}: a run passes", None)


class Moved(Fault):
    """The database is moved away under its workers, and put back when they are gone."""

    name = "store file moved away"
    expects = "every worker fences itself; nothing acknowledged is lost; restarted workers continue"
    lasts = 5.0

    async def strike(self, stage: Stage) -> None:
        assert isinstance(stage.engine, SQLite)
        database = stage.engine.database
        away = database.with_name("moved.db")
        fences = [self._fences(slot) for slot in stage.slots]
        stage.test.fault("store_down", fault=self.name)
        database.rename(away)
        since = time.monotonic()
        for slot, before in zip(stage.slots, fences, strict=True):
            await stage.until(f"{slot.name} fences itself", lambda s=slot, n=before: self._fences(s) > n)
        stage.book.measure("store file moved away: all are fenced", time.monotonic() - since, None)
        for slot in stage.slots:
            stage.test.fault("killed", worker=slot.name, at="moved")
            await slot.live.kill()
        away.rename(database)
        stage.test.fault("store_up", fault=self.name)
        await asyncio.gather(*(stage.start(slot) for slot in stage.slots))
        await stage.connected()
        await passes(stage, time.monotonic(), f"{self.name}, and put back: a run passes", None)

    def _fences(self, slot: Slot) -> int:
        return sum(event["event"] == "WorkerFenced" for event in slot.live.events)


class TooBig(Fault):
    """The disk has no room for the result of one run."""

    name = "a result without room"
    expects = "other runs pass meanwhile; that one ends as an error"
    lasts = 14.0

    async def strike(self, stage: Stage) -> None:
        before = await stage.living()
        slot = stage.rng.choice(stage.slots)
        stage.probes += 1
        run = await slot.live.do("admit", thread=f"big-{stage.leg}-{stage.probes}", returns_bytes=50_000_000)
        await slot.live.wait_for("stopped", run, timeout=PATIENCE)
        for _ in range(5):
            await passes(stage, time.monotonic(), f"{self.name}: other runs pass", 1.0)
        await stage.until("the run whose result has no room ends", lambda: self._ended(stage, run))
        if await stage.living() != before:
            stage.violation(f"a worker was declared dead or registered anew: {self.name}")

    async def _ended(self, stage: Stage, run: str) -> bool:
        return await stage.query("SELECT status FROM runs WHERE run_id = ?", run) == [("error",)]
