"""What callers ask for: a weighted grammar of calls, drawn from the seed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import TYPE_CHECKING, Any

from coordinator.errors import (
    CancelNotDurable,
    ConflictError,
    CoordinatorError,
    IdempotencyConflict,
    RunFailed,
)
from coordinator.schemas import RunStatus
from tests.simulation.agents import Agent, Habits

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.world import World

WEIGHTS = {
    "reject": 3,
    "enqueue": 4,
    "interrupt": 4,
    "rollback": 3,
    "keyed": 2,
    "create": 1,
    "cancel": 8,
    "wait": 3,
    "read": 2,
    "reconcile": 1,
    "update": 1,
    "copy": 1,
    "delete": 1,
    "completion": 1,
    "leave": 1,
}


DELAYS = (None, None, 0.2, 1.0, 3.0)


class Callers:
    """Coroutines that a process runs for its callers. Each asks for one thing and checks what it is told."""

    def __init__(self, world: World, chance: Random) -> None:
        self._world, self._chance = world, chance
        self._threads = [f"t{number}" for number in range(chance.choice((1, 1, 2)))]
        drawn = [name for name in WEIGHTS if chance.random() < 0.6]
        self._calls = [*drawn, chance.choice(("reject", "enqueue", "interrupt", "rollback"))]
        self._old_style = chance.random() < 0.25
        self._keys = 0

    def plan(self) -> list[tuple[float, str]]:
        """When what is asked for, in seconds from the beginning. A run comes first."""
        calls, chance = self._calls, self._chance
        number = chance.choice((3, 4, 5, 6, 8))
        runs = [call for call in calls if call in ("reject", "enqueue", "interrupt", "rollback", "keyed")]
        weights = [WEIGHTS[call] for call in calls]
        plan = [(chance.uniform(0, 0.1), chance.choice(runs))]
        burst = chance.random() < 0.4
        for _ in range(number - 1):
            when = chance.uniform(0.0, 0.05 if burst else 3.0)
            plan.append((when, chance.choices(calls, weights)[0]))
        return plan

    def call(self, name: str, process: Process) -> Coroutine[Any, Any, None]:
        if name in ("reject", "enqueue", "interrupt", "rollback"):
            work = self._admit(process, name)
        elif name == "keyed":
            work = self._admit(process, self._chance.choice(("reject", "enqueue", "interrupt")), key="k1")
        else:
            calls: dict[str, Callable[[Process], Coroutine[Any, Any, None]]] = {
                "create": self._create,
                "cancel": self._cancel,
                "wait": self._wait,
                "read": self._read,
                "reconcile": self._reconcile,
                "update": self._update,
                "copy": self._copy,
                "delete": self._delete,
                "completion": self._completion,
                "leave": self._leave,
            }
            work = calls[name](process)
        return self._expected(work)

    async def _expected(self, work: Coroutine[Any, Any, None]) -> None:
        """Errors that the project raises on purpose are answers."""
        try:
            await work
        except (CoordinatorError, TimeoutError) as error:
            self._world.say(None, f"answer {error!r}")

    def opening(self, process: Process) -> Coroutine[Any, Any, None]:
        """A gateway that cannot start is started again."""

        async def until_open() -> None:
            while process.up:
                try:
                    await process.manager.open()
                except CoordinatorError:
                    await asyncio.sleep(0.5)
                else:
                    return

        return until_open()

    def last_cancel(self, process: Process, run_id: str, wait: float | None) -> Coroutine[Any, Any, None]:
        return self._expected(self.cancel(process, run_id, "interrupt", wait))

    # -- runs

    async def _admit(self, process: Process, strategy: str, key: str | None = None) -> None:
        thread_id, asked = self._chance.choice(self._threads), self._world.schedule.now
        habits, old_style = Habits.draw(self._chance), self._old_style and self._chance.random() < 0.7
        portable = self._world.faults.portable and not old_style and self._chance.random() < 0.6
        assistant = "portable" if portable else "agent"
        closed = process.leaving
        known = key in self._world.truth.keys
        later = self._chance.choice(DELAYS) if self._world.faults.delays and key is None else None
        self._world.say(process, f"{strategy} on {thread_id}, {habits}, after {later} s")
        try:
            record = await process.manager.create_or_reject(
                thread_id,
                assistant,
                multitask_strategy=strategy,
                idempotency_key=key,
                kwargs={"strategy": key},
                after_seconds=later,
            )
        except ConflictError as conflict:
            truth = self._world.truth
            if (
                key is not None
                and known
                and not truth.runs[truth.keys[key]].deleted
                and not isinstance(conflict, IdempotencyConflict)
            ):
                truth.wrong(f"key {key} was known, and its run was not answered: {conflict}")
            elif key is None and strategy == "reject":
                truth.refused(thread_id, conflict.active_run_id, asked)
            elif key is None:
                truth.wrong(f"{strategy} was refused: {conflict}")
            raise
        if closed:
            self._world.truth.wrong(f"{process} admitted run {record.run_id} while it left")
        self._world.truth.admitted(record.run_id, key)
        if record.already_admitted:
            return
        if portable:
            self._world.habits[record.run_id] = habits
            process.manager.launch(record)
        else:
            self._start(process, record, habits, old_style=old_style)
        await self._wait_for(process, record.run_id, 60.0)

    def _start(self, process: Process, record: Any, habits: Habits, *, old_style: bool) -> None:
        self._world.habits[record.run_id] = habits
        agent = Agent(process, habits)
        if old_style:
            record.task = process.loop.create_task(agent.old_style(record), name="old style run")
        else:

            async def run(ctx: Any) -> Any:
                return await agent(ctx)

            process.manager.launch(record, run)

    async def _create(self, process: Process) -> None:
        record = await process.manager.create(self._chance.choice(self._threads), "agent")
        self._world.truth.admitted(record.run_id, None)
        self._start(process, record, Habits.draw(self._chance), old_style=False)

    async def _wait_for(self, process: Process, run_id: str, timeout: float) -> None:
        began = self._world.schedule.now
        try:
            result = await process.manager.wait(run_id, timeout=timeout)
        except RunFailed as failed:
            self._world.truth.waited(run_id, RunStatus(failed.status), None)
        except TimeoutError:
            if self._world.schedule.now - began < timeout:
                self._world.truth.wrong(f"wait for {run_id} gave up before its time")
        else:
            self._world.truth.waited(run_id, None, result)

    async def _cancel(self, process: Process) -> None:
        run_id = self._somebody()
        if run_id is None:
            return
        action = self._chance.choice(("interrupt", "interrupt", "rollback"))
        wait = self._chance.choice((None, None, 8.0))
        await self.cancel(process, run_id, action, wait)

    async def cancel(self, process: Process, run_id: str, action: str, wait: float | None) -> None:
        self._world.say(process, f"cancel {run_id} ({action}, wait={wait})")
        try:
            answer = await process.manager.cancel(run_id, action=action, wait=wait)
        except CancelNotDurable:
            self._world.truth.not_durable(run_id)
            raise
        self._world.truth.cancelled(run_id, answer=answer, waited=wait is not None)

    async def _wait(self, process: Process) -> None:
        if (run_id := self._somebody()) is not None:
            await self._wait_for(process, run_id, self._chance.choice((0.5, 30.0)))

    async def _completion(self, process: Process) -> None:
        if (run_id := self._somebody()) is not None:
            await process.manager.update_run_completion(run_id, total_tokens=7, model_name="m")

    def _somebody(self) -> str | None:
        known = [run_id for run_id, run in self._world.truth.runs.items() if not run.deleted]
        return self._chance.choice(known) if known else None

    # -- threads, looking, upkeep

    async def _read(self, process: Process) -> None:
        thread_id, truth = self._chance.choice(self._threads), self._world.truth
        before = truth.in_flight(thread_id)
        answer = await process.manager.has_inflight(thread_id)
        still = [run.run_id for run in before if run.in_flight]
        if not answer and still:
            truth.wrong(f"has_inflight({thread_id}) said no while {still} were in flight")
        if (run_id := self._somebody()) is not None:
            await process.manager.explain(run_id)
            await process.manager.receipt(run_id)
        await process.manager.list_by_thread(thread_id)

    async def _reconcile(self, process: Process) -> None:
        await process.manager.reconcile_orphaned_inflight_runs(error="reconciled")

    async def _update(self, process: Process) -> None:
        values = {"updated": self._world.schedule.number()}
        await process.manager.update_thread(self._chance.choice(self._threads), values)

    async def _copy(self, process: Process) -> None:
        await process.manager.copy_thread(self._threads[0], self._chance.choice((*self._threads, "copy")))

    async def _delete(self, process: Process) -> None:
        await process.manager.delete_thread(self._chance.choice(self._threads))

    async def _leave(self, process: Process) -> None:
        if process.up:
            await process.leave()
            await asyncio.sleep(0.2)
            self._world.restart()
