"""Faults of worker processes: kill -9 and SIGSTOP."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

from tests.faults.fault import Fault
from tests.faults.stage import Slot, Stage, holds
from tests.support.processes import Refused

_REACHED_WITHIN = 8.0  # s; for a worker with an armed point


class Kill(Fault):
    """kill -9: at a named point, or (`point=None`) at a random instant."""

    expects = "its runs end, its threads are free: death proven <= sweep + 1 s, else <= ttl + sweep + tick"

    def __init__(self, point: str | None = None) -> None:
        self.point = point
        self.name = "kill -9 " + ("at a random instant" if point is None else f"at {point!r}")

    async def strike(self, stage: Stage) -> None:
        slot = stage.rng.choice(stage.slots)
        if self.point == "fenced":
            await self._kill_the_reaper(stage, slot)
            return
        stage.test.fault("killed", worker=slot.name, at=self.point or "random")
        if not await self._kill(stage, slot):
            stage.book.counts[f"not reached: {self.point}"] += 1
        await self._recover(stage, [slot])

    async def _kill(self, stage: Stage, slot: Slot) -> bool:
        """Kills the worker, and returns True if it died at the point."""
        if self.point is None:
            await asyncio.sleep(stage.rng.uniform(0, 0.15))
            await slot.live.kill()
            return True
        await arm(slot, self.point)
        if await slot.live.ended(_REACHED_WITHIN):
            return True
        await slot.live.kill()
        return False

    async def _kill_the_reaper(self, stage: Stage, slot: Slot) -> None:
        others = [other for other in stage.slots if other is not slot]
        stage.test.fault("killed", worker=slot.name, at="random")
        for other in others:
            stage.test.fault("killed", worker=other.name, at="fenced")
            await arm(other, "fenced")
        await slot.live.kill()
        reaped = [asyncio.create_task(other.live.ended(_REACHED_WITHIN)) for other in others]
        await asyncio.wait(reaped, return_when=asyncio.FIRST_COMPLETED)
        dead = [slot]
        for other in others:
            if other.live.over or not await arm(other, "nowhere"):
                await other.live.kill()
                dead.append(other)
        for task in reaped:
            task.cancel()
        if len(dead) == 1:
            stage.book.counts["not reached: fenced"] += 1
        stage.book.faults["kill -9 of a reaper's victim"] += 1
        await self._recover(stage, dead)

    async def _recover(self, stage: Stage, dead: list[Slot]) -> None:
        """A restarted worker sweeps at once, and proves the death of its predecessor if that can be proven.
        So the restart waits for the recovery if it cannot be proven, and in half of the cases if it can."""
        epochs = [epoch for slot in dead for epoch in await stage.epochs(slot, alive=False)]
        runs = await stage.unfinished(epochs)
        over = asyncio.create_task(
            stage.until(
                f"the runs of {[slot.name for slot in dead]} end", lambda: stage.is_over(epochs, runs)
            )
        )
        proven = stage.proves_death(dead[0])
        patient = not proven or stage.rng.random() < 0.5
        if patient and len(dead) < len(stage.slots):
            await over
        await asyncio.gather(*(stage.start(slot) for slot in dead))
        stage.book.counts["runs ended for dead workers"] += len(runs)
        if (took := await over) is None:
            return
        knobs = stage.knobs
        if len(dead) > 1:
            stage.book.measure("two or more killed together: threads free", took)
        elif not proven:
            bound = knobs.lease_ttl + knobs.sweep + knobs.tick
            stage.book.measure(
                f"killed, no proof of it: threads free (ttl {knobs.lease_ttl:g} s)", took, bound
            )
        else:
            by = "by its peers" if patient else "restarted at once"
            name = f"same host killed: threads free (sweep {knobs.sweep:g} s, {by})"
            stage.book.measure(name, took, knobs.sweep + 1)


async def arm(slot: Slot, point: str) -> bool:
    """Arms a point in the worker. Returns False if the worker is dead already, perhaps at this point."""
    try:
        await slot.live.do("die", at=point)
    except ConnectionError:
        return False
    return True


class Pause(Fault):
    """SIGSTOP until its peers have declared it dead."""

    name = "SIGSTOP past the lease"
    expects = "after SIGCONT not one of its writes is accepted, its tasks are aborted, it registers anew"
    lasts = 4.0

    async def strike(self, stage: Stage) -> None:
        slot = stage.rng.choice(stage.slots)
        await take_up(stage, slot)
        await self._stop(stage, slot)
        epochs = await stage.epochs(slot)
        patience = stage.knobs.lease_ttl * 3 + 3
        dead = await holds(lambda: stage.is_dead(epochs[-1]), within=patience)
        if dead:
            stage.test.fault("declared_dead", worker=slot.name, epoch=epochs[-1])
            stage.book.counts["paused and declared dead"] += 1
        else:
            stage.violation(f"no worker has declared {slot.name} dead within {patience:g} s")
        await asyncio.sleep(stage.rng.uniform(0, 0.3))
        stage.test.fault("resumed", worker=slot.name)
        woke = time.monotonic()
        slot.live.send(signal.SIGCONT)
        if not dead:
            await slot.live.do("put_down")
            return
        took = await stage.until(f"{slot.name} registers anew", lambda: stage.is_anew(slot, epochs[-1]))
        if took is not None:
            stage.book.measure(
                "paused and declared dead: registered anew after waking", time.monotonic() - woke, 5.0
            )
        await slot.live.do("put_down")

    async def _stop(self, stage: Stage, slot: Slot) -> None:
        """Pauses the worker between two of its transactions: while it holds the write lock no peer can write,
        or declare it dead. Attempts within a transaction are resumed."""
        for _ in range(10):
            await asyncio.sleep(stage.rng.uniform(0.02, 0.1))
            stage.test.fault("paused", worker=slot.name)
            await self._suspend(stage, slot.live.pid)
            if await self._others_write(stage, slot):
                return
            stage.book.counts["paused in the middle of a transaction, resumed after 0.8 s"] += 1
            stage.test.fault("resumed", worker=slot.name)
            slot.live.send(signal.SIGCONT)
        raise AssertionError(f"{slot.name} cannot be paused between two transactions")

    async def _others_write(self, stage: Stage, slot: Slot) -> bool:
        before = await stage.query(_PEERS_BEATS, slot.live.pid)

        async def have_beaten() -> bool:
            return await stage.query(_PEERS_BEATS, slot.live.pid) != before

        return await holds(have_beaten, within=0.8)

    async def _suspend(self, stage: Stage, pid: int) -> None:
        """Returns when the process is stopped. About one of sixty signals has no effect and is sent again."""
        for _ in range(5):
            os.kill(pid, signal.SIGSTOP)
            if await holds(lambda: is_stopped(pid), within=0.2):
                return
            stage.book.counts["SIGSTOP without effect, sent again"] += 1
        raise AssertionError(f"process {pid} does not stop")


async def take_up(stage: Stage, slot: Slot) -> None:
    """Starts runs on the worker that write without a pause."""
    try:
        await slot.live.do("take_up")
    except Refused as error:  # it has just been declared dead for the previous pause
        stage.book.counts[f"struck without scribblers: {error.name}"] += 1


def is_stopped(pid: int) -> bool:
    """Returns True if all its threads are (proc(5): the state follows the name, which may contain blanks)."""
    stats = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)


_PEERS_BEATS = "SELECT sum(hb_seq) FROM workers WHERE pid <> ?"
