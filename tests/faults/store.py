"""Faults of the store's file, and of the clock."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from contextlib import closing

from tests.faults.fault import Fault
from tests.faults.stage import PATIENCE, Stage


class Lock(Fault):
    """Another program holds the file's write lock."""

    name = "store file locked for 5 s"
    expects = "nothing acknowledged is lost, nobody is buried, a run passes within 1 s of its end"
    lasts = 7.0

    async def strike(self, stage: Stage) -> None:
        before = stage.query(_EPOCHS)
        stage.test.fault("store_down")
        cx = await asyncio.to_thread(_locked, str(stage.database))
        try:
            await asyncio.sleep(5.0)
        finally:
            cx.rollback()
            cx.close()
        since = time.monotonic()
        stage.test.fault("store_up")
        await passes(stage, since, "store file unlocked: a run passes", 1.0)
        if stage.query(_EPOCHS) != before:
            stage.violation("a worker was buried or registered anew while the store was locked")


_EPOCHS = "SELECT epoch FROM workers WHERE state <> 'dead' ORDER BY epoch"


async def passes(stage: Stage, since: float, what: str, bound: float) -> None:
    stage.probes += 1
    slot = stage.rng.choice(stage.slots)
    until, last = since + PATIENCE, Exception()
    while time.monotonic() < until:
        try:
            await slot.live.do("round_trip", thread=f"round-{stage.leg}-{stage.probes}")
        except Exception as error:  # noqa: BLE001 - whatever it says: again, until the time is over
            last = error
            stage.probes += 1
            await asyncio.sleep(0.02)
        else:
            stage.book.measure(what, time.monotonic() - since, bound)
            return
    stage.violation(f"{what}: not within {PATIENCE} s: {last!r}")


def _locked(database: str) -> sqlite3.Connection:
    cx = sqlite3.connect(database, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
    cx.execute("BEGIN IMMEDIATE")
    return cx


class Full(Fault):
    """The disk is full for 2 s: a file takes what is left of the small file system."""

    name = "disk full"
    expects = "errors and no lies while it is full; a run passes within 1 s of its end; the file stays sound"
    lasts = 4.0

    async def strike(self, stage: Stage) -> None:
        ballast = stage.disk / "ballast"
        stage.test.fault("store_down", fault=self.name)
        with ballast.open("wb", buffering=0) as file:
            for size in (1 << 16, 1 << 10):
                await asyncio.to_thread(_fill, file.fileno(), size)
        refused_before = self._refused(stage)
        await asyncio.sleep(2.0)
        stage.book.counts["calls that met a full disk"] += self._refused(stage) - refused_before
        ballast.unlink()
        since = time.monotonic()
        stage.test.fault("store_up", fault=self.name)
        await passes(stage, since, "disk with space again: a run passes", 1.0)

    def _refused(self, stage: Stage) -> int:
        return sum(
            path.read_bytes().count(b'"StoreUnavailable"')
            for path in stage.folder.glob(f"{stage.leg}-*.jsonl")
        )


def _fill(fd: int, size: int) -> None:
    try:
        while os.write(fd, b"x" * size):
            pass
    except OSError:
        return


class ClockJump(Fault):
    """The wall clock of one worker, or of all, is an hour ahead or behind for two seconds."""

    expects = "nobody is buried, no lease ends, cancels are as fast as ever, no run is touched"
    lasts = 4.0

    def __init__(self, seconds: int, *, everybody: bool) -> None:
        self._seconds, self._everybody = seconds, everybody
        self.name = f"clock jump {seconds:+d} s ({'all workers' if everybody else 'one worker'})"

    async def strike(self, stage: Stage) -> None:
        before = stage.query(_EPOCHS)
        stage.test.fault("clock", seconds=self._seconds)
        struck = stage.slots if self._everybody else [stage.rng.choice(stage.slots)]
        for slot in struck:
            await slot.live.do("jump", seconds=self._seconds)
        until = time.monotonic() + 2 * stage.knobs.sweep
        while time.monotonic() < until:
            _, took = await stage.probe()
            stage.book.measure("clock jump: cancel delivered", took, 1.5)
            await asyncio.sleep(0.3)
        for slot in struck:
            await slot.live.do("jump", seconds=0)
        stage.test.fault("clock", seconds=0)
        if stage.query(_EPOCHS) != before:
            stage.violation(f"a worker was buried or registered anew: {self.name}")


def is_sound(database: str) -> bool:
    with closing(sqlite3.connect(database)) as cx:
        return cx.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
