"""One call of the store: it may fail, be late, or be the last action of its process."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from stores.errors import RowLocked, StoreUnavailable
from stores.rows import Ownership
from stores.spec import AdmissionRequest
from tests.simulation.store import ADMISSIONS, LOCKING, WRITES

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.world import World

DATABASE_IS_THERE = "nothing keeps the database away"
WAITS_FOR_ROWS = 1.0  # s; the store's busy_timeout


class Call:
    """One call of the store, from the caller's await to its answer."""

    __slots__ = (
        "args",
        "before",
        "fate",
        "future",
        "gives_up",
        "kwargs",
        "op",
        "point",
        "process",
        "task",
        "world",
    )

    def __init__(
        self,
        world: World,
        process: Process,
        op: str,
        point: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        future: asyncio.Future[Any],
        fate: str | None,
        before: bool,
    ) -> None:
        self.world, self.process, self.op, self.point = world, process, op, point
        self.args, self.kwargs, self.future = args, kwargs, future
        self.fate, self.before = fate, before
        self.gives_up: float | None = None
        """When it no longer waits for locked rows."""
        self.task = asyncio.current_task(process.loop) if fate == "cancel" else None

    def strike(self, when: float) -> float:
        """Applies the fault at this moment, and returns the time at which the call continues."""
        world, process = self.world, self.process
        world.trace_step(
            process, f"{self.op} ({self.point}): {self.fate} {'before' if self.before else 'after'}"
        )
        met = True
        if self.fate == "slow":
            when += world.chance.choice((0.02, 0.3, 2.0))
        elif self.fate == "crash":
            met = world.trouble.kill(process)
        elif self.fate == "pause":
            met = world.trouble.pause(process)
        elif self.fate == "cancel":
            met = self._caller_leaves()
        if met:
            self._met()
        return when

    def _caller_leaves(self) -> bool:
        """Cancels the task of a caller; a worker's own tasks are not cancelled."""
        task, process = self.task, self.process
        if task is None or task.done() or task not in process.clients or task.get_name() == "leave":
            return False
        process.loop.call_soon(task.cancel) if self.before else process.loop.post(task.cancel)
        return True

    def _met(self) -> None:
        self.world.meet(self.point, self.op, "before" if self.before else "after", self.fate or "nothing")

    def commit(self) -> None:
        """Executes the call when its rows are free, or answers RowLocked when it has waited too long."""
        world, process = self.world, self.process
        now, free_at = world.schedule.now, self._free_at()
        if free_at > now:
            self.gives_up = self.gives_up or now + WAITS_FOR_ROWS
            if now < self.gives_up:
                world.schedule.at(min(free_at, self.gives_up), self.commit)
                return
        process.sent -= 1
        if self.op in ADMISSIONS:
            process.admitting.discard(self.args[0].run_id)
        if free_at > now:
            self._answer(None, RowLocked("a simulated row is locked"))
        else:
            self._execute()

    def _free_at(self) -> float:
        """Returns when no foreign session locks the rows of the call. The withdrawal of an admission is made
        after that."""
        world = self.world
        if self.op == "withdraw" and self.args[0] in self.process.admitting:
            return world.schedule.now + 0.1
        return world.trouble.locked_until(self._thread()) if self.op in LOCKING else 0.0

    def _thread(self) -> str:
        """Returns the thread whose rows the call locks; of an unknown run, its id."""
        first = self.args[0]
        if isinstance(first, AdmissionRequest):
            return first.spec.thread_id
        if isinstance(first, Ownership):
            return first.thread_id
        run = self.world.truth.runs.get(first)
        return first if run is None else run.thread_id

    def _execute(self) -> None:
        world, process = self.world, self.process
        fails = self.fate == "fail"
        if fails:
            self._met()
        if world.trouble.keeps_away(process) or (fails and self.before):
            self._answer(None, StoreUnavailable("the simulated store is away"))
            return
        try:
            answer = world.truth.commit(self.op, self.args, self.kwargs, self._run)
        except Exception as error:  # noqa: BLE001 - it is the caller's
            self._answer(None, error)
            return
        world.pace.account(process, self.op, self.args, answer)
        if fails:
            self._answer(None, StoreUnavailable("the simulated store does not report whether it wrote"))
        else:
            self._answer(answer, None)

    def _run(self) -> Any:
        if self.op == "restore" and self.world.breaks():
            raise RuntimeError("this state cannot be restored")
        try:
            return self.world.database.call(self.op, *self.args, **self.kwargs)
        except StoreUnavailable as error:
            self.world.truth.wrong(f"{self.op} failed, and {DATABASE_IS_THERE}: {error}")
            raise

    def _answer(self, answer: Any, error: Exception | None) -> None:
        world, process = self.world, self.process
        if world.trace is not None and self.op not in ("tick", "beat", "workers", "sweep"):
            world.trace_step(
                process, f"{self.op}{self.args!r:.150} -> {error or answer!r:.150} [{self.point}]"
            )
        when = world.schedule.now + world.chance.uniform(0.0001, 0.002)
        if not self.before and self.fate not in (None, "fail"):
            when = self.strike(when)
        if self.op in WRITES and not world.faults.disordered:
            when = process.last_answer = max(when, process.last_answer)
        world.schedule.at(when, process.loop.post, self._settle, answer, error)

    def _settle(self, answer: Any, error: Exception | None) -> None:
        if self.world.trouble.keeps_away(self.process):
            answer, error = None, StoreUnavailable("the simulated store was cut off before it answered")
        elif self.op == "beat" and answer is False:
            self.world.truth.death_known(self.args[0])
        if self.future.done():
            return
        if error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(answer)
