"""One seed: some processes on one store, what is asked of them, what goes wrong, and how it ends."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

from coordinator.settings import Settings
from stores.errors import StoreUnavailable
from tests.simulation import stand_ins, workload
from tests.simulation.agents import Habits
from tests.simulation.bus import Bus
from tests.simulation.callers import Callers
from tests.simulation.calls import Call
from tests.simulation.faults import Faults, draw
from tests.simulation.logged import errors_logged
from tests.simulation.loop import Handle, Livelock, Schedule
from tests.simulation.pace import Pace
from tests.simulation.process import SETTINGS, Process
from tests.simulation.store import URGENT, WRITES, Database
from tests.simulation.truth import Run, Truth

Met = tuple[str, str, str, str]
"""Await point, operation, before or after its commit, what happened there."""

WALL = 1_750_000_000.0
TROUBLE = 5.0  # s; how long things go wrong
BOUND = 45.0  # s; from then on, everything has to be over
MOST_EVENTS = 60_000


class World:
    def __init__(self, seed: int, database: Database, trace: Callable[[str], None] | None = None) -> None:
        self.seed, self.trace = seed, trace
        self.chance = Random(seed)
        self.schedule = Schedule()
        self.truth = Truth(lambda: self.schedule.now)
        self.truth.wall = lambda: self.wall_ns() // 1000
        self.truth.ttl = SETTINGS.lease_ttl
        self.truth.term = SETTINGS.lease_ttl - SETTINGS.lease_margin
        self.faults: Faults = draw(self.chance)
        self.features = workload.draw(self.chance)
        self.settings = SETTINGS
        if self.features.settings:
            self.settings = Settings(**{**SETTINGS.model_dump(), **self.features.settings})
        self.quiet = self.truth.quiet = not self.faults.strike
        self.truth.most_waiting = SETTINGS.max_waiting_per_thread or 0
        self.truth.longest_stop = SETTINGS.force_after + 0.5
        self.bus = Bus(self)
        self.met: Counter[Met] = Counter()
        self.habits: dict[str, Habits] = {}
        self.epochs: dict[int, Process] = {}
        self.processes: list[Process] = []
        self.errors: list[str] = []
        self.calm = False
        self._asked: dict[str, float] = {}
        self.pace = Pace(lambda: self.schedule.now, self.faults, self.truth)
        self.outage_until = self._calm_since = self._skew = 0.0
        self._closing = self._done = False
        self.database = database
        database.empty()
        database.note, database.gone = self.truth.note, self.truth.gone
        database.clock = lambda: self.wall_ns() // 1000
        self.callers = Callers(self, self.chance)

    # -- the clocks of whoever runs at the moment

    def boottime(self) -> float:
        return self.schedule.now

    def wall_ns(self) -> int:
        return int((WALL + self.schedule.now + self._skew) * 1e9)

    def say(self, process: Process | None, what: object) -> None:
        if self.trace is not None:
            self.trace(f"{self.schedule.now:9.4f} {'' if process is None else process!r:<3} {what}")

    def meet(self, point: str, op: str, where: str, what: str) -> None:
        self.met[point, op, where, what] += 1

    # -- the run of it

    def run(self) -> list[str]:
        """Everything from the first call to the last check; what was wrong."""
        with stand_ins.answering(self), errors_logged(self.errors, self.faults):
            self.say(None, f"seed {self.seed}: {self.faults}")
            for _ in range(self.chance.choice((1, 2, 2, 3))):
                self._start_process()
            for when, name in workload.plan(self.chance):
                self.schedule.after(when, self._call, name)
            self._plan_trouble()
            self.schedule.after(TROUBLE, self._be_calm)
            try:
                self._go()
            except Livelock as error:
                self.truth.wrong(f"a process never waits: {error}")
            return self.truth.violations + self.errors

    def end(self) -> None:
        """Nothing of it runs any more, whatever its tasks do when they are destroyed."""
        for process in self.processes:
            process.loop.kill()

    def _go(self) -> None:
        for _ in range(MOST_EVENTS):
            if self._done or not self.schedule.step():
                break
        if not self._done:
            self.truth.wrong("the world stood still, or never came to an end")
            return
        for process in self.processes:
            if not process.loop.dead:
                self.truth.violations.extend(process.leftovers())
        self.truth.final(self.database.cx)

    def _start_process(self) -> Process:
        process = Process(self, len(self.processes))
        self.processes.append(process)
        process.begin(self.callers.opening(process), "open")
        return process

    def restart(self) -> None:
        """Another process takes the place of one that is gone."""
        if not self._closing:
            self._start_process()

    def up(self) -> list[Process]:
        return [process for process in self.processes if process.up]

    def _call(self, name: str) -> None:
        up = self.up()
        if self.chance.random() < 0.1:
            up = [process for process in self.processes if not process.loop.dead]
        if up:
            process = self.chance.choice(up)
            process.begin(self.callers.call(name, process), name)

    # -- trouble

    def _plan_trouble(self) -> None:
        faults, chance = self.faults, self.chance
        if faults.crashes and chance.random() < 0.5:
            self.schedule.after(chance.uniform(0.1, 3.0), self._strike, self.kill)
        if faults.pauses and chance.random() < 0.5:
            self.schedule.after(chance.uniform(0.1, 3.0), self._strike, self.pause)
        for _ in range(faults.outages):
            self.schedule.after(chance.uniform(0.1, 3.0), self._outage)
        for _ in range(faults.cuts):
            self.schedule.after(chance.uniform(0.1, 3.0), self._strike, self._cut_off)
        for _ in range(faults.burials):
            self.schedule.after(chance.uniform(0.1, 3.0), self._strike, self.bury)
        for _ in range(faults.jumps):
            self.schedule.after(chance.uniform(0.1, 9.0), self._jump)
        for _ in range(faults.breaks):
            self.schedule.after(chance.uniform(0.1, 3.0), self._strike, self._break)
            self.schedule.after(chance.uniform(0.1, 3.0), self.bus.flush)

    def _strike(self, fault: Callable[[Process], None]) -> None:
        if up := self.up():
            fault(self.chance.choice(up))

    def kill(self, process: Process) -> bool:
        if process.loop.dead or self.faults.crashes <= 0:
            return False
        self.faults.crashes -= 1
        self.say(process, "is killed")
        process.loop.kill()
        process.unsent.clear()
        process.died = self.schedule.now
        self.truth.killed |= process.epochs
        if self.chance.random() < 0.6:
            self.schedule.after(self.chance.uniform(0.05, 2.0), self.restart)
        return True

    def pause(self, process: Process) -> bool:
        if process.loop.dead or process.loop.stopped or self.faults.pauses <= 0:
            return False
        self.faults.pauses -= 1
        seconds = self.chance.choice((0.5, 2.0, 7.0, 12.0))
        self.say(process, f"is paused for {seconds} s")
        process.loop.stopped = True
        self.schedule.after(seconds, self._go_on, process)
        return True

    def _go_on(self, process: Process) -> None:
        self.say(process, "goes on")
        unsent, process.unsent = process.unsent, []
        for call in unsent:
            self._send(call, self.schedule.now + self.chance.uniform(0.0002, 0.004))
        process.loop.go_on(self._shuffle)

    def _shuffle(self, kept: list[Handle]) -> None:
        self.chance.shuffle(kept)

    def _outage(self) -> None:
        self.outage_until = self.schedule.now + self.chance.choice((0.3, 1.0, 6.0))
        self.say(None, f"the store is away until {self.outage_until:.3f}")

    def _cut_off(self, process: Process) -> None:
        """One process alone, both ways: what it sent may be done, and it does not hear so."""
        process.cut_until = self.schedule.now + self.chance.choice((0.5, 2.0, 5.5, 9.0))
        self.say(process, f"does not reach the store until {process.cut_until:.3f}")

    def away_from(self, process: Process) -> bool:
        return self.schedule.now < max(self.outage_until, process.cut_until)

    def died_at(self, epoch: int) -> float | None:
        process = self.epochs.get(epoch)
        return None if process is None else process.died

    def breaks(self) -> bool:
        return self.chance.random() < self.faults.broken

    def bury(self, process: Process) -> None:
        """It lives, and somebody says that it is dead."""
        for peer in self.database.workers():
            if peer.epoch in process.epochs and not process.loop.dead:
                self.say(process, f"is buried alive, epoch {peer.epoch}")
                self.truth.falsely.add(peer.epoch)
                self.truth.commit("bury", (peer,), {}, partial(self.database.bury, peer))

    def _jump(self) -> None:
        """All processes are on one host, which is what SQLite asks for: its clock is everybody's."""
        self.truth.clock_jumped = True
        self._skew += self.chance.choice((-15.0, 0.5, 40.0))
        self.say(None, f"the clock jumps to {self._skew:+} s")

    def _break(self, process: Process) -> None:
        self._link(process, up=False)
        self.schedule.after(self.chance.uniform(0.2, 3.0), partial(self._link, process, up=True))

    def _link(self, process: Process, *, up: bool) -> None:
        if process.linked is not up and not process.loop.dead:
            process.linked = up
            self.say(process, "hears the others again" if up else "hears nobody")
            process.loop.post(process.notifier.link_changed)

    # -- the store's side of a call

    def request(
        self,
        process: Process,
        op: str,
        point: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        future: asyncio.Future[Any],
    ) -> None:
        """An await point: the call is on its way."""
        if process.loop.dead:
            return
        if process.store_closed:
            future.set_exception(StoreUnavailable("the store is closed"))
            return
        strike, before = self._fate(point, op)
        call = Call(self, process, op, point, args, kwargs, future, strike, before)
        self.meet(point, op, "before", "nothing")
        when = self.schedule.now + self.chance.uniform(0.0002, 0.004)
        if before and strike is not None:
            when = call.strike(when)
            if process.loop.dead:
                return
        if process.loop.stopped and self.chance.random() < 0.5:
            process.unsent.append(call)
        else:
            self._send(call, when)

    def _send(self, call: Call, when: float) -> None:
        """From here on the store does it, whatever becomes of who asked."""
        process = call.process
        if call.op in WRITES and call.op not in URGENT:
            when = process.last_write = max(when, process.last_write)
        process.sent += 1
        self.schedule.at(when, call.commit)

    def _fate(self, point: str, op: str) -> tuple[str | None, bool]:
        if self.calm:
            return None, True
        chance, before = self.chance, self.chance.random() < 0.5
        for name, share in self.faults.strike.items():
            if chance.random() < share:
                return name, before
        return None, before

    def proven_dead(self, epoch: int) -> bool:
        process = self.epochs.get(epoch)
        return self.faults.proofs and process is not None and process.loop.dead

    # -- the end

    def _be_calm(self) -> None:
        """Nothing goes wrong any more. What hangs is cancelled; everything has to come to an end."""
        self.say(None, "all is calm")
        self.calm, self._calm_since = True, self.schedule.now
        faults = self.faults
        faults.crashes = faults.pauses = 0
        faults.lose = faults.repeat = faults.late = 0.0
        faults.broken = 0.0
        self.outage_until = 0.0
        for process in self.processes:
            process.cut_until = 0.0
        for process in self.processes:  # who is paused goes on by itself, perhaps long after its burial
            self._link(process, up=True)
        if all(process.loop.stopped for process in self.up()):
            self._start_process()
        self._look()

    def _look(self) -> None:
        unsettled = [run for run in self.truth.runs.values() if run.in_flight]
        busy = [
            process
            for process in self.processes
            if not process.loop.dead and (process.clients or process.agents)
        ]
        late = any(process.loop.dead and process.sent for process in self.processes)
        if not unsettled and not busy and not late and not self.database.unsettled():
            self._close()
            return
        if self.schedule.now - self._calm_since > BOUND:
            names = [f"{run.run_id} ({run.status}, holds={run.holds})" for run in unsettled]
            clients = [task.get_name() for process in busy for task in process.clients]
            agents = sum(process.agents for process in busy)
            self.truth.wrong(f"not over after {BOUND} s: {names}, calls {clients}, {agents} agents")
            self._close()
            return
        for run in unsettled:
            self._end_what_hangs(run)
        self.truth.look_for_overdue(self._calm_since)
        self.schedule.after(0.25, self._look)

    def _end_what_hangs(self, run: Run) -> None:
        run_id, habits = run.run_id, self.habits.get(run.run_id)
        if habits is None or habits.ends != "hangs" or run.waiting or run.status.value != "running":
            return
        if run.timeout is not None or (run.idle is not None and habits.silent):
            return  # it ends by itself
        up = [process for process in self.up() if not process.loop.stopped]
        if up and self.schedule.now - self._asked.get(run_id, 0.0) > 5.0:
            self._asked[run_id] = self.schedule.now
            process = self.chance.choice(up)
            wait = self.chance.choice((None, 20.0))
            process.begin(self.callers.last_cancel(process, run_id, wait), "last cancel")

    def _close(self) -> None:
        """Every process leaves; then what is left is looked at."""
        self._closing = True
        for process in self.up():
            process.begin(process.leave(), "leave")
        self._await_left()

    def _await_left(self) -> None:
        left = all(
            process.left and not process.clients and not process.agents
            for process in self.processes
            if not process.loop.dead
        )
        if left or self.schedule.now - self._calm_since > BOUND + 60.0:
            self.schedule.after(0.1, self._finish)
        else:
            self.schedule.after(0.1, self._await_left)

    def _finish(self) -> None:
        self._done = True
