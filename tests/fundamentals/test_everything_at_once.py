"""Random admissions, cancels, operations and failures on few threads and several workers, seed by seed. In
every order: two runs never hold a thread together, an acknowledged cancel never ends as success, fences only
grow, and at the end all runs are settled and all threads are free. One form also declares live workers dead
all the time."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from coordinator import (
    ConflictError,
    InvalidArgument,
    LeaseLost,
    NotSettled,
    RunContext,
    RunManager,
    RunStatus,
    StaleFence,
    StoreUnavailable,
)
from tests.support.inside import assembly_of
from tests.support.teams import team_of
from tests.support.waiting import wait_until

HONEST = (  # errors that a caller may get under these faults
    ConflictError,
    NotSettled,
    StoreUnavailable,
    StaleFence,
    LeaseLost,
    InvalidArgument,
)
THREADS = ("t1", "t2", "t3")
WRITES = ("admit", "claim", "decide", "start", "finish", "settle", "save", "restore", "withdraw", "insert")


class Weather:
    """Faults between the workers and their store: late answers and outages."""

    def __init__(self, dice: random.Random) -> None:
        self.dice, self.fair = dice, False

    def over(self, manager: RunManager, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in WRITES:
            monkeypatch.setattr(manager.store, name, self._rough(getattr(manager.store, name)))

    def _rough(self, write: Any) -> Any:
        async def passed_on(*args: Any, **kwargs: Any) -> Any:
            if self.fair:
                return await write(*args, **kwargs)
            luck = self.dice.random()
            if luck < 0.03:
                raise StoreUnavailable("struck before the write")
            answer = await write(*args, **kwargs)
            for _ in range(self.dice.randrange(4)):
                await asyncio.sleep(0)
            return answer

        return passed_on


class Story:
    """The events, as the agents observed them."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.on_thread: dict[str, set[str]] = defaultdict(set)
        self.fences: dict[str, list[int]] = defaultdict(list)
        self.overlaps: list[tuple[str, str]] = []
        self.acknowledged: set[str] = set()
        self.runs: set[str] = set()

    async def agent(self, ctx: RunContext) -> str:
        thread_id = ctx.run.thread_id
        self.overlaps += [(other, ctx.run.run_id) for other in self.on_thread[thread_id]]
        self.on_thread[thread_id].add(ctx.run.run_id)
        self.fences[thread_id].append(ctx.fence)
        try:
            for turn in range(self.dice.randrange(3)):
                await asyncio.sleep(self.dice.random() * 0.01)
                await ctx.save({"by": ctx.run.run_id, "turn": turn})
            return "done"
        finally:
            try:
                await self._pause()  # a cancel may strike here as well
            finally:
                self.on_thread[thread_id].discard(ctx.run.run_id)

    async def admits(self, manager: RunManager) -> None:
        strategy = self.dice.choice(("reject", "enqueue", "interrupt", "rollback"))
        run = await manager.create_or_reject(self.dice.choice(THREADS), multitask_strategy=strategy)
        self.runs.add(run.run_id)
        await self._pause()
        manager.launch(run, self.agent)

    async def cancels(self, manager: RunManager) -> None:
        if self.runs:
            run_id = self.dice.choice(sorted(self.runs))
            action = self.dice.choice(("interrupt", "rollback"))
            if await manager.cancel(run_id, action=action, wait=self.dice.choice((None, 0.05))):
                self.acknowledged.add(run_id)

    async def operates(self, manager: RunManager) -> None:
        await manager.threads.replace_values(self.dice.choice(THREADS), {"by": "operation"})

    async def gives_up(self, manager: RunManager) -> None:
        """The caller of an admission or a cancel is cancelled at any moment."""
        asking = asyncio.ensure_future(self.dice.choice((self.admits, self.cancels))(manager))
        await self._pause()
        asking.cancel()
        await asyncio.wait((asking,))
        if not asking.cancelled() and (error := asking.exception()) is not None:
            raise error

    async def _pause(self) -> None:
        for _ in range(self.dice.randrange(6)):
            await asyncio.sleep(0)


async def caller(story: Story, manager: RunManager, calls: int) -> None:
    for _ in range(calls):
        act = story.dice.choices(
            (story.admits, story.cancels, story.operates, story.gives_up), weights=(5, 4, 1, 2)
        )[0]
        with suppress(*HONEST):
            await act(manager)
        await asyncio.sleep(story.dice.random() * 0.005)


async def declare_live_workers_dead(story: Story, team: list[RunManager]) -> None:
    """Declares live workers dead: their later writes are refused, and they register anew."""
    for _ in range(6):
        await asyncio.sleep(story.dice.random() * 0.05)
        victim, by = story.dice.sample(team, 2)
        for row in await by.worker.fleet():
            if row.epoch == victim.worker.epoch:
                await by.store.fence_worker(row, by=by.worker.epoch, proven=True)


@pytest.mark.parametrize("fencing", [False, True], ids=["all live", "declared dead"])
@pytest.mark.parametrize("seed", range(8))
async def test_random_operations_on_several_workers_keep_the_invariants(
    seed: int, fencing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dice = random.Random(seed)
    story, weather = Story(dice), Weather(dice)
    async with team_of(3, tmp_path, short_tick=0.02, renew=0.05, sweep=0.05, force_after=1) as team:
        for manager in team:
            weather.over(manager, monkeypatch)
        async with asyncio.timeout(40), asyncio.TaskGroup() as acts:
            for manager in team * 2:
                acts.create_task(caller(story, manager, 25))
            if fencing:
                acts.create_task(declare_live_workers_dead(story, team))
        weather.fair = True
        await no_run_in_flight(team)
        for row in await team[0].runs.recent(limit=1000):
            assert row.settled, row
            assert row.run_id not in story.acknowledged or row.status is not RunStatus.success, row
        for fences in story.fences.values():
            assert fences == sorted(set(fences))
        if (
            not fencing
        ):  # a fenced worker stops its tasks with its next heartbeat, and until then they overlap
            assert story.overlaps == []
        for manager in team:
            await wait_until(
                lambda manager=manager: no_task_left(manager),
                description="every worker has stopped its tasks",
            )


def no_task_left(manager: RunManager) -> bool:
    return all(entry.record.task is None for entry in assembly_of(manager).shared.registry.unsettled())


async def no_run_in_flight(team: list[RunManager]) -> None:
    """Ends the runs that were admitted and never launched, and waits until no run is in flight."""

    async def none_left() -> bool:
        left = await team[0].runs.recent(in_flight=True)
        for row in left:
            for manager in team:
                entry = assembly_of(manager).shared.registry.entry(row.run_id)
                if entry is not None and entry.record.task is None:
                    await manager.cancel(row.run_id)
        return not left

    await wait_until(none_left, description="every thread is free", timeout=10)
