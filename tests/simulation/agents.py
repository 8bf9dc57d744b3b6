"""The code of runs: it steps, saves, emits, tracks work, fails or hangs, and stops at once or late."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any
from zlib import crc32

from coordinator.context import RunContext
from coordinator.record import RunRecord
from coordinator.schemas import Interrupt, Outcome, RunStatus
from tests.support.inside import assembly_of
from tests.support.kit import UserAgent

if TYPE_CHECKING:
    from tests.simulation.process import Process


CODES = (
    "after_a_failed_child",
    "while_a_group_aborts",
    "in_a_group",
    "gathers",
    "after_a_timeout",
    "polls_20_ms",
    "cleans_up_slowly",
    "cleans_up_against_the_clock",
    "swallows_once",
)
"""Agents of the kit without threads, and without anyio, which needs one of asyncio's own loops."""


class Failed(Exception):
    """An agent's own failure."""


class Unreadable(Failed):
    """As users write them: its text needs what was never set."""

    detail: str

    def __str__(self) -> str:
        return self.detail


@dataclass
class Habits:
    """How one agent behaves."""

    steps: int
    pace: float
    saves: float
    ends: str  # value | dict | paused | fails | hangs
    stops: str  # at_once | late | with_success | with_failure | saving
    deaf: float
    tracks: float | None
    silent: bool
    """While it hangs, it gives no sign of life."""
    patience: float | None
    """Longest wait for a save (s)."""
    code: str | None = None
    """It hangs in this code of `tests.support.kit`, which lets every cancel through in the end."""

    @classmethod
    def draw(cls, chance: Random) -> Habits:
        return cls(
            steps=chance.choice((0, 1, 2, 3)),
            pace=chance.choice((0.0, 0.01, 0.1, 0.4)),
            saves=chance.choice((0.0, 0.5, 1.0)),
            ends=chance.choices(("value", "dict", "paused", "fails", "hangs"), (3, 3, 1, 1, 4))[0],
            stops=chance.choices(
                ("at_once", "late", "with_success", "with_failure", "saving"), (4, 3, 2, 1, 2)
            )[0],
            deaf=chance.choice((0.05, 0.5, 1.5, 4.0)),
            tracks=chance.choice((None, None, None, 0.3, 1.5, 4.0)),
            silent=chance.random() < 0.5,
            patience=chance.choice((None, None, None, None, 0.0, 0.003)),
        )


WALK = 5
"""Steps of a run that other workers may continue."""


class Walker:
    """The code of a run that may have further attempts: takes WALK steps, saves each, begins with the first
    that was not saved, and stops between two steps when its worker drains."""

    def __init__(self, process: Process, *, heeds_drain: bool) -> None:
        self.process, self.heeds_drain = process, heeds_drain
        self.truth, self.pace = process.world.truth, process.world.chance.choice((0.02, 0.1, 0.3, 0.8))

    async def __call__(self, ctx: RunContext) -> Any:
        run_id, epoch = ctx.run.run_id, self.process.manager.worker.epoch
        self.process.agents += 1
        try:
            saved: dict[str, Any] = ctx.values or {}
            steps: list[int] = list(saved.get("steps", ())) if saved.get("by") == run_id else []
            while len(steps) < WALK:
                self.truth.step(run_id, epoch, ctx.fence, guarded=False)
                await asyncio.sleep(self.pace)
                if self.heeds_drain and ctx.drain_event.is_set():
                    return Outcome(drained=True)
                steps.append(len(steps))
                await ctx.save({"by": run_id, "steps": list(steps)})
            return {"by": run_id, "steps": steps}
        except asyncio.CancelledError:
            if ctx.abort is not None:
                self.process.world.pace.cancel_delivered(self.process, run_id)
            raise
        finally:
            self.truth.step(run_id, epoch, ctx.fence, guarded=False)
            self.process.agents -= 1


class Agent:
    """The code of one run. Reports each step to the world's truth."""

    def __init__(self, process: Process, habits: Habits) -> None:
        self.process, self.habits = process, habits
        self.world, self.truth = process.world, process.world.truth
        self.cancels = 0
        self.run_id = ""
        self.epoch = self.fence = 0

    def step(self, *, guarded: bool = False) -> None:
        self.truth.step(self.run_id, self.epoch, self.fence, guarded=guarded)

    async def __call__(self, ctx: RunContext) -> Any:
        self.run_id, self.fence = ctx.run.run_id, ctx.fence
        self.epoch = self.process.manager.worker.epoch
        self.process.agents += 1
        try:
            return await self._live(ctx)
        finally:
            self.step()
            self.process.agents -= 1

    async def _live(self, ctx: RunContext) -> Any:
        habits = self.habits
        self.step()
        if habits.tracks is not None:
            ctx.track(self.process.loop.create_task(self._background(habits.tracks)))
        try:
            for number in range(habits.steps):
                ctx.check()
                self.step(guarded=True)
                await self._deed(ctx, number)
                await asyncio.sleep(habits.pace)
                self.step()
            while habits.ends == "hangs":
                if habits.code is not None:
                    await self._as_users_write(ctx, habits.code)
                await asyncio.sleep(1.0)
                self.step()
                ctx.check()
                self.step(guarded=True)
                if not habits.silent:
                    await self._deed(ctx, -1)
        except asyncio.CancelledError:
            if self.run_id in self.process.users_code:  # delivered earlier, in that code
                raise
            self._cancelled(ctx)
            return await self._stop(ctx)
        return self._end()

    async def _as_users_write(self, ctx: RunContext, code: str) -> None:
        body = UserAgent(code, clean_up=0.3)
        self.process.users_code.add(self.run_id)
        try:
            await body(ctx)
        finally:
            self.step()
            if self.truth.quiet:  # of two that are gathered the first to be done ends the waiting for both
                self.process.loop.call_later(1.0, self._cleaned_up, body)

    def _cleaned_up(self, agent: UserAgent) -> None:
        if agent.body.begun != agent.body.finished:
            self.truth.wrong(f"run {self.run_id} was cut short in its clean-up ({agent.name})")

    def _end(self) -> Any:
        ends = self.habits.ends
        if ends == "fails":
            # By the id, for a draw of its own would shift those of every seed that is remembered.
            raise Unreadable if crc32(self.run_id.encode()) % 2 else Failed(self.run_id)
        if ends == "dict":
            return {"by": self.run_id}
        if ends == "paused":
            return Outcome(result="p" + self.run_id, paused=True, interrupts=(Interrupt("why?"),))
        return "r" + self.run_id

    async def _deed(self, ctx: RunContext, number: int) -> None:
        self.truth.sign(self.run_id)
        if self.world.chance.random() < self.habits.saves:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.habits.patience):
                    await ctx.save({"by": self.run_id, "step": number})
        else:
            await ctx.emit("custom", number)
            ctx.progress(total_tokens=number)

    def _cancelled(self, ctx: RunContext) -> None:
        self.cancels += 1
        if ctx.abort is None and not self.process.departing:
            self.truth.wrong(f"run {self.run_id} was cancelled without a reason")
        self.world.pace.cancel_delivered(self.process, self.run_id)

    async def _stop(self, ctx: RunContext) -> Any:
        stops = self.habits.stops
        if stops == "at_once":
            raise asyncio.CancelledError
        waits = min(self.habits.deaf, 0.5) if stops != "late" else self.habits.deaf
        try:
            while waits > 0:
                await asyncio.sleep(min(waits, 0.4))
                waits -= 0.4
                self.step()
            if stops in ("late", "saving"):
                ctx.check()
                self.step(guarded=True)
            if stops == "saving":
                await ctx.save({"by": self.run_id, "step": "last"})
        except asyncio.CancelledError:
            self.truth.wrong(f"run {self.run_id} was cancelled twice")
            raise
        if stops == "with_success":
            return {"by": self.run_id, "late": True}
        if stops == "with_failure":
            raise Failed(self.run_id)
        raise asyncio.CancelledError

    async def _background(self, seconds: float) -> None:
        self.process.agents += 1
        try:
            while seconds > 0:
                await asyncio.sleep(min(seconds, 0.4))
                seconds -= 0.4
                self.step()
        finally:
            self.process.agents -= 1

    # -- a caller's own task, in the style of older gateways

    async def old_style(self, record: RunRecord) -> None:
        manager, run_id = self.process.manager, record.run_id
        self.run_id = run_id
        self.process.agents += 1
        try:
            await manager.set_status(run_id, RunStatus.running)
            if record.status is not RunStatus.running:
                return
            entry = assembly_of(manager).shared.registry.entry(run_id)
            if entry is not None and entry.own is not None:
                self.epoch, self.fence = entry.own.epoch, entry.own.fence
            for _ in range(self.habits.steps + 1):
                self.step()
                await asyncio.sleep(self.habits.pace)
            while self.habits.ends == "hangs":
                await asyncio.sleep(2.0)
            self.step()
            failed = self.habits.ends == "fails"
            status = RunStatus.error if failed else RunStatus.success
            await manager.set_status(run_id, status, error="failed" if failed else None)
            self.step()
        except asyncio.CancelledError:
            if self.habits.stops == "late":
                await asyncio.sleep(self.habits.deaf)
                self.step()
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the run ends with it
            await manager.set_status(run_id, RunStatus.error, error=str(error))
        finally:
            self.process.agents -= 1
