"""One call of the store: it may fail, be late, or be the last thing that its process did."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from stores.errors import StoreUnavailable
from tests.simulation.store import WRITES

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.world import World


class Call:
    """One call of the store, from the caller's await to its answer."""

    __slots__ = (
        "args",
        "before",
        "fate",
        "future",
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
        self.task = asyncio.current_task(process.loop) if fate == "cancel" else None

    def strike(self, when: float) -> float:
        """What goes wrong at this moment; when the call goes on."""
        world, process = self.world, self.process
        world.say(process, f"{self.op} ({self.point}): {self.fate} {'before' if self.before else 'after'}")
        if self.fate == "slow":
            return when + world.chance.choice((0.02, 0.3, 2.0))
        if self.fate == "crash":
            world.kill(process)
        elif self.fate == "pause":
            world.pause(process)
        elif self.fate == "cancel" and self.task in process.clients and self.task.get_name() != "leave":
            process.loop.call_soon(self.task.cancel) if self.before else process.loop.post(self.task.cancel)
        return when

    def commit(self) -> None:
        world, process = self.world, self.process
        process.sent -= 1
        if world.schedule.now < world.outage_until or (self.fate == "fail" and self.before):
            self._answer(None, StoreUnavailable("the simulated store is away"))
            return
        try:
            answer = world.truth.commit(self.op, self.args, self.kwargs, self._run)
        except Exception as error:  # noqa: BLE001 - it is the caller's
            self._answer(None, error)
        else:
            world.pace.account(process, self.op, self.args, answer)
            if self.fate == "fail":
                self._answer(None, StoreUnavailable("the simulated store does not say whether it wrote"))
            else:
                self._answer(answer, None)

    def _run(self) -> Any:
        try:
            getattr(self.world.database.store, self.op)(*self.args, **self.kwargs).send(None)
        except StopIteration as done:
            return done.value
        raise AssertionError("a transaction in memory never waits")

    def _answer(self, answer: Any, error: Exception | None) -> None:
        world, process = self.world, self.process
        if world.trace is not None and self.op not in ("tick", "beat", "workers", "sweep"):
            world.say(process, f"{self.op}{self.args!r:.150} -> {error or answer!r:.150} [{self.point}]")
        when = world.schedule.now + world.chance.uniform(0.0001, 0.002)
        if not self.before and self.fate not in (None, "fail"):
            when = self.strike(when)
        if self.op in WRITES and not world.faults.disordered:
            when = process.last_answer = max(when, process.last_answer)
        world.schedule.at(when, process.loop.post, self._settle, answer, error)

    def _settle(self, answer: Any, error: Exception | None) -> None:
        if self.future.done():
            return
        if error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(answer)
